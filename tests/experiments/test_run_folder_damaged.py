"""Damaged run folders: a resume is right, or an error that names the file and changes nothing."""

import dataclasses
import io
import json
import random
import re
import shutil
import warnings

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import data, job, torture
from experiments.config import Config
from experiments.setup import build
from jaxprune.training import Preempted
from tests.training.checkpointed import after, loud_when_collected

pytestmark = pytest.mark.usefixtures("jax_defaults")

CONFIG = Config(
    model="lenet_300_100",
    epochs=2,
    retrain_epochs=1,
    cycles=2,
    batch_size=128,
    checkpoint_epochs=1,
)
PICTURES = ("accuracy.png", "learning_rate.png", "sparsity.png", "weights.png")


class Runs:
    """Runs that share their compiled programs."""

    def __init__(self, folder):
        self.parts = build(CONFIG)
        self.results = {}
        self.calm = folder / "calm"
        self.go(self.calm)
        self.stopped = folder / "stopped"
        with pytest.raises(Preempted):
            self.go(self.stopped, after(3))

    def go(self, folder, stop=None, **options):
        config = dataclasses.replace(CONFIG, run_dir=folder, **options)
        file = io.StringIO()
        console = Console(file=file, width=200)
        result = job.run(config, console=console, parts=self.parts, stop=stop)
        self.results[folder] = result
        return file.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return Runs(tmp_path_factory.mktemp("runs"))


def contents(folder):
    """All files but locks, by their paths."""
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.name[0] != "."}


def flip(file, place, bits):
    held = bytearray(file.read_bytes())
    held[place] ^= bits
    file.write_bytes(held)


@pytest.mark.parametrize("change", ["a byte", "a digit", "a line lost"])
@pytest.mark.parametrize("which", ["stopped", "calm"])
def test_a_resume_that_fails_destroys_nothing(tmp_path, runs, change, which):
    folder = tmp_path / "run"
    shutil.copytree(getattr(runs, which), folder)
    log = folder / "metrics.jsonl"
    text = log.read_text()
    if change == "a byte":
        flip(log, 100, 0x80)
    elif change == "a digit":
        digit = re.search(r'"loss": \d\.(\d)', text)
        assert digit is not None
        other = str(9 - int(digit[1]))
        log.write_text(text[: digit.start(1)] + other + text[digit.end(1) :])
    else:
        log.write_text(text.split("\n", 1)[1])
    before = contents(folder)
    with pytest.raises(ValueError, match=r"metrics\.jsonl (is damaged or edited|has \d+ bytes)"):
        runs.go(folder, resume=True)
    assert contents(folder) == before


def test_a_resume_on_other_data_is_refused(tmp_path, runs, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(runs.stopped, folder)
    before, right = contents(folder), data.load("digits")
    label = np.roll(right.train["label"], 1)
    wrong = dataclasses.replace(right, train={**right.train, "label": label})
    shorter = {"image": right.test["image"][:-1], "label": right.test["label"][:-1]}
    fewer = dataclasses.replace(right, test=shorter)
    for dataset, message in ((wrong, "data sha256"), (fewer, "data examples")):
        identity = data.identity(dataset)
        monkeypatch.setattr(runs, "parts", runs.parts._replace(identity=lambda i=identity: i))
        with pytest.raises(ValueError, match=f"other settings.*{message}"):
            runs.go(folder, resume=True)
        assert contents(folder) == before
    held = json.loads((folder / "config.json").read_text())["data"]
    assert held == json.loads(json.dumps(data.identity(right)))
    assert held["version"].startswith("scikit-learn")
    assert held["examples"] == {"train": 1293, "validation": 144, "test": 360}


def test_the_weights_kept_are_those_before_the_last_prune(runs):
    before = np.load(runs.calm / "weights_before.npz")
    kernels = [x for x in before.values() if x.ndim == 2]
    kept = sum(int(np.count_nonzero(x)) for x in kernels)
    assert kept == 11225  # of cycle 1


def test_columns_of_the_log_have_one_type_and_one_meaning(runs):
    rows = torture._rows(runs.calm / "metrics.jsonl")
    types = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                types.setdefault(name, set()).add(type(value))
    assert {name: found for name, found in types.items() if len(found) > 1} == {}
    kinds = {name: {row["kind"] for row in rows if name in row} for name in types}
    assert kinds["accuracy"] == {"train"}
    assert kinds["phase"] == kinds["test_accuracy"] == {"phase"}
    assert kinds["cycle"] == kinds["step"] == {"train", "validation", "phase"}


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.json", "summary.csv", "weights_before.npz"]
)
def test_random_bytes_of_the_reports(tmp_path, runs, name):
    drawn = random.Random(name)
    for i in range(6):
        _damage_and_resume(tmp_path / str(i), runs, name, drawn)


@pytest.mark.slow
@loud_when_collected
@pytest.mark.parametrize("which", ["stopped", "calm"])
def test_random_bytes_of_every_file(tmp_path, runs, which):
    drawn = random.Random(which)
    names = sorted(contents(getattr(runs, which)))
    for i, name in enumerate(drawn.sample(names, 20)):
        _damage_and_resume(tmp_path / str(i), runs, name, drawn, which)


def _damage_and_resume(folder, runs, name, drawn, which="stopped"):
    shutil.copytree(getattr(runs, which), folder)
    file = folder / name
    if not file.stat().st_size:
        file.write_bytes(bytes([drawn.randrange(256)]))
    for _ in range(drawn.choice((1, 3))):
        flip(file, drawn.randrange(file.stat().st_size), drawn.randrange(1, 256))
    before, failure, said = contents(folder), None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            said = runs.go(folder, resume=True)
        except (ValueError, OSError) as error:
            failure = str(error)
    if failure is not None:
        assert name.split("/")[0] in failure
        assert contents(folder) == before
        return
    ours, theirs = (jax.tree.leaves(runs.results[f].state.params) for f in (folder, runs.calm))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    for rows, log in ((torture._rows, "metrics.jsonl"), (torture._table, "summary.csv")):
        assert rows(folder / log) == rows(runs.calm / log)
    for picture in PICTURES:
        if picture == "weights.png" and "weights_before.npz is" in said:
            continue
        assert (folder / picture).read_bytes() == (runs.calm / picture).read_bytes(), name
    about = {str(w.message) for w in caught if issubclass(w.category, UserWarning)}
    assert all("damaged" in message for message in about), about
