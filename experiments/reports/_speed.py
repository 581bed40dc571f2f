"""Images a second, from the times at which chunks of a training loop end."""

import statistics
import time


class Speed:
    """The speed of training: the median over stretches, or over chunks of steps.

    The median leaves out what is no training: the first chunk, which waits for the compiler, and
    chunks whose time holds an evaluation.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._last = time.perf_counter()
        self._speeds: list[float] = []
        self._least = 3

    def chunk(self, steps: int) -> None:
        """A chunk of so many steps has ended now."""
        now = time.perf_counter()
        self._speeds.append(steps * self._batch_size / max(now - self._last, 1e-9))
        self._last = now

    def stretch(self, steps: int, seconds: float) -> None:
        """So many steps have taken so long, from the first to the metrics of the last."""
        self._least = 1
        self._speeds.append(steps * self._batch_size / max(seconds, 1e-9))

    def images_per_second(self) -> float | None:
        """The median, or `None` before three chunks or one stretch; starts anew."""
        speeds, self._speeds = self._speeds, []
        return statistics.median(speeds) if len(speeds) >= self._least else None
