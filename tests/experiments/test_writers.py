"""The rows of a run's log at other places."""

import sys
import types

import pytest

from experiments import command, reports, writers
from experiments.config import Config

TRAIN = {"kind": "train", "cycle": 0, "step": 3, "learning_rate": 0.1, "loss": 2.0, "accuracy": 0.5}
VALIDATION = {"kind": "validation", "cycle": 0, "step": 4, "validation_accuracy": 0.25}
PHASE = {
    "kind": "phase",
    "cycle": 1,
    "phase": "cycle 1",
    "first_step": 4,
    "step": 9,
    "sparsity": 0.5,
    "test_accuracy": 0.75,
    "discount": None,
}


def test_numbers_have_names_by_kind():
    assert writers.scalars(TRAIN) == (
        3,
        {"train/learning_rate": 0.1, "train/loss": 2.0, "train/accuracy": 0.5},
    )
    assert writers.scalars(VALIDATION) == (4, {"validation/accuracy": 0.25})
    assert writers.scalars(PHASE) == (9, {"phase/sparsity": 0.5, "phase/test_accuracy": 0.75})


class Fake(types.ModuleType):
    """A package with the calls that are used of it, and what it was told."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = types.SimpleNamespace(name=name)
        self.begun, self.points, self.ended = [], [], 0

    def init(self, **options):
        self.begun.append(options)
        return self

    def define_metric(self, name, *, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values, step=None):
        self.points.append((values.pop("step") if step is None else step, values))

    def finish(self):
        self.ended += 1

    # As tensorboardX calls it.

    def SummaryWriter(self, path, **options):  # noqa: N802
        self.begun.append({"path": path, **options})
        return self

    def add_text(self, name, text, step):
        assert (name, step) == ("config", 0)
        assert "| model | small_cnn |" in text

    def add_scalar(self, name, value, step):
        self.points.append((step, {name: value}))

    close = finish


@pytest.fixture
def package(monkeypatch):
    def make(name):
        fake = Fake(name)
        monkeypatch.setitem(sys.modules, name, fake)
        return fake

    return make


@pytest.mark.parametrize(
    ("name", "module"),
    [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("trackio", "trackio")],
)
def test_a_run_and_its_continuation(name, module, package, tmp_path):
    fake = package(module)
    config = Config(writers=(name,))
    folder = reports.RunFolder(tmp_path / "run", config)
    folder.open()
    folder.log(TRAIN)
    mark = folder.sync()
    folder.log({**VALIDATION, "validation_loss": float("nan")})
    folder.close()
    again = reports.RunFolder(tmp_path / "run", config)
    again.reopen(mark, step=4)
    again.log(PHASE)
    again.close()
    points = {}
    for step, values in fake.points:
        points.setdefault(step, {}).update(values)
    assert points == {
        3: {"train/learning_rate": 0.1, "train/loss": 2.0, "train/accuracy": 0.5},
        4: {"validation/accuracy": 0.25},  # a NaN is not drawn
        9: {"phase/sparsity": 0.5, "phase/test_accuracy": 0.75},
    }
    assert fake.ended == 2
    first, second = fake.begun
    if name == "tensorboard":
        assert (first.get("purge_step"), second["purge_step"]) == (None, 4)
    else:
        assert (first["name"], second["resume"]) == ("run", "allow")
        assert first["config"]["model"] == "small_cnn"
        assert first.get("id") == second.get("id")


def test_other_processes_write_nothing(package, tmp_path):
    fake = package("wandb")
    folder = reports.RunFolder(tmp_path / "run", Config(writers=("wandb",)), writes=False)
    folder.open()
    folder.log(TRAIN)
    folder.close()
    assert not fake.begun


def test_events_that_tensorboard_reads(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordReader  # type: ignore[attr-defined]

    folder = reports.RunFolder(tmp_path, Config(writers=("tensorboard",)))
    folder.open()
    folder.log(VALIDATION)
    folder.close()
    (file,) = (tmp_path / "tensorboard").glob("events*")
    events = [Event.FromString(record) for record in RecordReader(str(file))]
    found = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert (4, "validation/accuracy", 0.25) in found


def test_on_the_command_line(package, monkeypatch):
    package("wandb")
    config = command.parse(["--writers", "wandb", "trackio"])
    assert config.writers == ("wandb", "trackio")
    assert reports._folder._arguments(config) == ["--writers", "wandb", "trackio"]
    writers.check_installed(["wandb"])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"trackio needs trackio: pip install '\.\[writers\]'"):
        writers.check_installed(["trackio"])
    with pytest.raises(ValueError, match=r"unknown writer 'aim'\. Known: tensorboard, wandb"):
        writers.check_installed(["aim"])
