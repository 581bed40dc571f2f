"""The command line of a run: the options in groups, with examples."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from experiments import tasks
from experiments.config import Config, defaults
from experiments.options import Dense, Devices, Pruning, Reading, Saving, Sizes, Task
from experiments.program import program

_PROGRAM = program("run")
_ABOUT = f"""Train a network, prune it and retrain it, in cycles.

The default run prunes a small convolutional network on scikit-learn's digits to 95 % in three
cycles, each retrained with ALLR.

Examples:
  {_PROGRAM}
  {_PROGRAM} --data cifar10 --model resnet20 --sparsity 0.98 --schedule llr
  {_PROGRAM} --method gmp --sparsity 0.9 --run-dir runs/gmp"""


@dataclasses.dataclass(frozen=True)
class _Command:
    task: Task = dataclasses.field(default_factory=Task)
    dense: Dense = dataclasses.field(default_factory=Dense)
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    saving: Saving = dataclasses.field(default_factory=Saving)
    reading: Reading = dataclasses.field(default_factory=Reading)
    devices: Devices = dataclasses.field(default_factory=Devices)


def parse(arguments: list[str] | None) -> Config:
    """The configuration that a command line asks for.

    Args:
      arguments: instead of the process's own; `None` for these.
    """
    # Defaults are those of the task, so it has to be known first.
    base = defaults(_task(sys.argv[1:] if arguments is None else arguments))
    groups = {
        field.name: kind(**{f.name: getattr(base, f.name) for f in dataclasses.fields(kind)})
        for field in dataclasses.fields(_Command)
        for kind in [_GROUPS[field.name]]
    }
    command = tyro.cli(
        Annotated[_Command, tyro.conf.OmitArgPrefixes],  # type: ignore[arg-type]
        args=arguments,
        default=_Command(**groups),
        prog=_PROGRAM,
        description=_ABOUT,
    )
    found = (getattr(command, field.name) for field in dataclasses.fields(command))
    return Config(**{k: v for group in found for k, v in vars(group).items()})


_GROUPS: dict[str, Any] = {
    "task": Task,
    "dense": Dense,
    "sizes": Sizes,
    "pruning": Pruning,
    "saving": Saving,
    "reading": Reading,
    "devices": Devices,
}


def _task(arguments: Sequence[str]) -> str:
    """The task that a command line names; the last one, as the parser has it."""
    task = tasks.DEFAULT
    for i, word in enumerate(arguments):
        if word == "--task" and i + 1 < len(arguments):
            task = arguments[i + 1]
        elif word.startswith("--task="):
            task = word.removeprefix("--task=")
    return task
