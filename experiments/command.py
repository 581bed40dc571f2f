"""The command line of a run: the options in groups, with examples."""

import dataclasses
from typing import Annotated

import tyro

from experiments.config import Config
from experiments.options import Dense, Devices, Pruning, Reading, Saving, Task

_PROGRAM = "python -m experiments.run"
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
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    saving: Saving = dataclasses.field(default_factory=Saving)
    reading: Reading = dataclasses.field(default_factory=Reading)
    devices: Devices = dataclasses.field(default_factory=Devices)


def parse(arguments: list[str] | None) -> Config:
    """The configuration that a command line asks for.

    Args:
      arguments: instead of the process's own; `None` for these.
    """
    command = tyro.cli(
        Annotated[_Command, tyro.conf.OmitArgPrefixes],  # type: ignore[arg-type]
        args=arguments,
        prog=_PROGRAM,
        description=_ABOUT,
    )
    groups = (getattr(command, field.name) for field in dataclasses.fields(command))
    return Config(**{k: v for group in groups for k, v in vars(group).items()})
