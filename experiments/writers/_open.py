"""Writers by name."""

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ._rows import Writer
from ._tensorboard import TensorBoard
from ._trackio import Trackio
from ._wandb import WandB

_WRITERS = {
    "tensorboard": ("tensorboardX", TensorBoard),
    "wandb": ("wandb", WandB),
    "trackio": ("trackio", Trackio),
}
NAMES = tuple(_WRITERS)
"""What `--writers` takes."""


def check_installed(names: Sequence[str]) -> None:
    """Raises if a writer is unknown or its package missing.

    Raises:
        ValueError: unknown name.
        ImportError: with the command that installs it.
    """
    for name in names:
        if name not in _WRITERS:
            raise ValueError(f"unknown writer {name!r}. Known: {', '.join(NAMES)}")
        package = _WRITERS[name][0]
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"the writer {name} needs {package}: pip install '.[writers]', or {package} alone"
            )


def open_writers(
    names: Sequence[str], folder: pathlib.Path, config: Mapping[str, Any], *, first_step: int = 0
) -> list[Writer]:
    """Opens writers.

    Args:
        names: of `NAMES`.
        folder: of the run; its name is the run's.
        config: the settings of the run.
        first_step: where a resumed run goes on; what was written from there on is not valid.

    Returns:
        One writer a name.

    Raises:
        ValueError: unknown name.
        ImportError: a package is missing.
    """
    check_installed(names)
    return [_WRITERS[name][1](folder, dict(config), first_step) for name in names]
