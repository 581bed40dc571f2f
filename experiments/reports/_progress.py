"""The progress of a run: a live bar, or lines where there is no terminal."""

import time
from collections.abc import Mapping

import numpy as np
import rich.progress
from rich.console import Console

from experiments.tasks import DEFAULT, KINDS, Kind

_SECONDS = 60  # between two lines at most


class Progress:
    """A live bar over all steps of a run, with loss, accuracy, learning rate and speed.

    Where there is no terminal, as in a file or a pipe, a line is printed whenever a tenth of all
    steps is done, or a minute has passed.
    """

    def __init__(
        self, total_steps: int, batch_size: int, console: Console, kind: Kind = KINDS[DEFAULT]
    ):
        self._batch_size, self._kind = batch_size, kind
        self._last = time.perf_counter()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[numbers]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            console=console,
        )
        self._lines = not (console.is_terminal or console.is_jupyter)
        self._console, self._total = console, total_steps
        self._done, self._phase, self._said = 0, "dense", (0, self._last)
        self._task = self._bar.add_task("dense", total=total_steps, numbers="compiling")

    def start(self) -> None:
        """Shows the bar."""
        self._last = time.perf_counter()
        if not self._lines:
            self._bar.start()

    def stop(self) -> None:
        """Leaves the bar as it is."""
        if not self._lines:
            self._bar.stop()

    def phase(self, name: str) -> None:
        """Names the phase that runs now."""
        self._phase = name
        self._bar.update(self._task, description=name)

    def done(self, steps: int) -> None:
        """So many steps are done already."""
        self._done = steps
        self._said = (self._tenth(), time.perf_counter())
        self._bar.update(self._task, completed=steps)

    def chunk(self, rates: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
        """Advances by some steps and shows their mean loss and accuracy."""
        now = time.perf_counter()
        speed = len(rates) * self._batch_size / max(now - self._last, 1e-9)
        self._last = now
        curve = self._kind.curve
        numbers = (
            f"loss {metrics['loss'].mean():.3f}  {curve.short} {metrics[curve.name].mean():.3f}  "
            f"lr {rates[-1]:.4f}  {speed:,.0f} {self._kind.short}/s"
        )
        self._done += len(rates)
        self._bar.update(self._task, advance=len(rates), numbers=numbers)
        if self._lines and (self._tenth() > self._said[0] or now - self._said[1] > _SECONDS):
            self._said = (self._tenth(), now)
            line = f"{self._phase}  {self._done:,}/{self._total:,}  {numbers}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _tenth(self) -> int:
        return 10 * self._done // self._total
