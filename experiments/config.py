"""What a run is: every choice, with its unit and default. The command line is made from it.

Neither this module nor what it imports may import JAX, which takes seconds.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import registry, tasks
from experiments.options import ITERATIVE as ITERATIVE
from experiments.options import METHODS as METHODS
from experiments.options import UNCONTROLLED as UNCONTROLLED
from experiments.options import Dense, Devices, Pruning, Reading, Saving, Sizes, Task

# Methods that call an option by another word.
_OTHER_WORDS = {
    ("interval", "ac_dc"): "compressed_steps",
    ("penalty", "lc"): "weight_decay",
    ("penalty", "sr_ste"): "decay",
}


def _takers(option: str) -> dict[str, str]:
    """The methods that take an option of the command line, and which argument it sets."""
    found = {}
    for name, entry in registry.METHODS.items():
        argument = _OTHER_WORDS.get((option, name), option)
        if not entry.takes(argument):
            continue
        if option == "initial" and entry.takes("sparsity"):
            continue  # there it is the sparsity at the start
        if option == "interval" and "None" not in entry.parameters[argument].annotation:
            continue  # it belongs to an option that only the library has
        found[name] = argument
    return found


INTERVAL, PENALTY, INITIAL = _takers("interval"), _takers("penalty"), _takers("initial")
# What may change between a run and its continuation: it changes no number, or only the rounding.
NOT_COMPARED = (
    "run_dir",
    "data_dir",
    "data_cache",
    "compilation_cache",
    "workers",
    "parallel",
    "devices",
    "coordinator",
    "num_processes",
    "process_id",
    "join_seconds",
    "checkpoint_epochs",
    "resume",
    "on_nan",
    "writers",
    "profile",
)
# Options that came later: runs and checkpoints that do not name them have their defaults.
_LATER = (
    "task",
    "optimizer",
    *(field.name for field in dataclasses.fields(Sizes)),
)
DENSE_SCHEDULES = ("stepped", "linear", "cosine", "constant")


# Fields come from the last class first.
@dataclasses.dataclass(frozen=True)
class Config(Devices, Reading, Saving, Pruning, Sizes, Dense, Task):
    """Train a network, prune it and retrain it, in cycles.

    The default run prunes a small convolutional network on scikit-learn's digits to 95 % in three
    cycles, each retrained with ALLR. Its options are those of all classes of `experiments.options`.
    """

    def resolved_dense_schedule(self) -> str:
        """The name of the dense learning-rate schedule."""
        return self.dense_schedule or ("linear" if self.method == "bimp" else "stepped")

    def total_epochs(self) -> int:
        """The length of the whole run in epochs, whatever the method."""
        return self.epochs + self.cycles * self.retrain_epochs

    def data_name(self) -> str:
        """What the data are called: the name of the set, or of the text file without its folder."""
        return pathlib.PurePath(self.data).stem if tasks.is_text_file(self.data) else self.data

    def kind(self) -> tasks.Kind:
        """What is known of the task."""
        return tasks.KINDS[self.task]

    def resolved_run_dir(self) -> pathlib.Path:
        """The folder of this run."""
        if self.run_dir is not None:
            return self.run_dir
        how = f"{self.method}-{self.schedule}" if self.method in ITERATIVE else self.method
        how = how if self.structured is None else f"{how}-{self.structured}"
        name = f"{self.data_name()}-{self.model}-{how}-{self.sparsity:g}"
        return pathlib.Path("runs") / f"{name}-s{self.seed}"


def compared(config: Config) -> dict[str, Any]:
    """What must not change between a run and its continuation, as JSON holds it."""
    values = dataclasses.asdict(config)
    return {k: v for k, v in values.items() if k not in NOT_COMPARED and not _is_later(k, v)}


def _is_later(name: str, value: Any) -> bool:
    return name in _LATER and value == _DEFAULTS[name]


def defaults(task: str, **options: Any) -> Config:
    """The default configuration of a task.

    Args:
      task: its name; of one that is not known the defaults are those of image classification.
      **options: other options.
    """
    kind = tasks.KINDS.get(task)
    return Config(**{"task": task, **(kind.defaults if kind else {}), **options})


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Config)}


def compared_data(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of a data set must not change between a run and its continuation.

    Not the version: the same examples under another name are the same.
    """
    return {f"data {name}": identity[name] for name in ("examples", "sha256")}


def as_json(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it."""
    values = dataclasses.asdict(config)
    return {k: _as_json(v) for k, v in values.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def check_same(path: pathlib.Path, config: Config) -> None:
    """Raises if a folder holds a run of another configuration; touches nothing.

    Raises:
      FileExistsError: listing the first differences.
    """
    file = path / "config.json"
    if not file.exists():
        return
    held: Any = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        held = json.loads(file.read_text(encoding="utf-8"))["config"]
    if not isinstance(held, dict):
        raise FileExistsError(
            f"{file} is not the configuration of a run, or damaged. Choose another folder with "
            "--run-dir."
        )
    settings = as_json(config)
    names = sorted((held.keys() | settings.keys()) - set(NOT_COMPARED))
    held = {name: _DEFAULTS[name] for name in _LATER} | held
    different = [n for n in names if held.get(n) != settings.get(n)]
    if different:
        shown = ", ".join(
            f"{n}: {held.get(n)!r} there, {settings.get(n)!r} now" for n in different[:3]
        )
        raise FileExistsError(
            f"the run folder {path} holds a run of another configuration ({shown}), says its "
            f"{file.name}. Choose another with --run-dir, or delete it."
        )
