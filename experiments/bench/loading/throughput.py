"""Images a second of anything that yields batches."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Images a second: the median of the stretches, the slowest and the fastest.

    ``images`` are those counted in all stretches; ``first_seconds`` went by until the first batch
    came, the start of workers included.
    """

    median: float
    slowest: float
    fastest: float
    images: int
    first_seconds: float


def images_per_second(
    batches: Iterator[Mapping[str, Any]],
    *,
    repeats: int = 3,
    min_seconds: float = 3.0,
    warm_up: int = 4,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Counts the images that an iterator of batches makes in a second.

    Args:
      batches: yields {"label": [rows], ...}; must not end before the last stretch. A generator that
        trains on each batch before it yields it times the training.
      repeats: number of stretches.
      min_seconds: least duration of a stretch, in whole batches.
      warm_up: batches that are not counted, after the first: as many as are made ahead, because
        those were not made in the measured time.
      clock: seconds.
    """
    try:
        start = clock()
        next(batches)
        first_seconds = clock() - start
        for _ in range(warm_up):
            next(batches)
        rates, total = [], 0
        for _ in range(repeats):
            images, start, seconds = 0, clock(), 0.0
            while seconds < min_seconds or not images:
                images += len(next(batches)["label"])
                seconds = clock() - start
            rates.append(images / seconds)
            total += images
    except StopIteration:
        raise ValueError(
            "the batches ended before the last stretch; pass an iterator without end, or lower "
            f"repeats={repeats}, min_seconds={min_seconds} or warm_up={warm_up}."
        ) from None
    return Throughput(statistics.median(rates), min(rates), max(rates), total, first_seconds)
