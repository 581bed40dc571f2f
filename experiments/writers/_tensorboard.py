"""TensorBoard: event files in the run folder."""

import pathlib
from collections.abc import Mapping
from typing import Any


class TensorBoard:
    """Writes to RUN_DIR/tensorboard, which `tensorboard --logdir` shows."""

    def __init__(self, folder: pathlib.Path, config: dict[str, Any], first_step: int):
        import tensorboardX  # pyright: ignore[reportMissingImports]

        # What a run that was killed had written after its checkpoint is not shown.
        purge = {"purge_step": first_step} if first_step else {}
        self._writer = tensorboardX.SummaryWriter(str(folder / "tensorboard"), **purge)
        if not first_step:
            rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
            self._writer.add_text("config", f"| option | value |\n|---|---|\n{rows}", 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()
