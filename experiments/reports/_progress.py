"""The live progress bar of a run."""

import time
from collections.abc import Mapping

import numpy as np
import rich.progress
from rich.console import Console


class Progress:
    """A live bar over all steps of a run, with loss, accuracy, learning rate and speed."""

    def __init__(self, total_steps: int, batch_size: int, console: Console):
        self._batch_size = batch_size
        self._last = time.perf_counter()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[numbers]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task = self._bar.add_task("dense", total=total_steps, numbers="compiling")

    def start(self) -> None:
        """Shows the bar."""
        self._last = time.perf_counter()
        self._bar.start()

    def stop(self) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()

    def phase(self, name: str) -> None:
        """Names the phase that runs now."""
        self._bar.update(self._task, description=name)

    def done(self, steps: int) -> None:
        """So many steps are done already."""
        self._bar.update(self._task, completed=steps)

    def chunk(self, rates: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Advances by some steps and shows their mean loss and accuracy."""
        now = time.perf_counter()
        speed = len(rates) * self._batch_size / max(now - self._last, 1e-9)
        self._last = now
        numbers = (
            f"loss {metrics['loss'].mean():.3f}  acc {metrics['accuracy'].mean():.3f}  "
            f"lr {rates[-1]:.4f}  {speed:,.0f} img/s"
        )
        self._bar.update(self._task, advance=len(rates), numbers=numbers)
