"""The median of measurements, with an interval that assumes no distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class MedianInterval(NamedTuple):
    """A median and its interval.

    Attributes:
      median: of the values.
      low: lower end of the interval.
      high: its upper end.
    """

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float], *, level: float = 0.95) -> MedianInterval:
    r"""Returns the median and an interval for it that assumes no distribution.

    The number of values below the true median is binomial with p = 1/2, so the order statistics
    number j + 1 from below and from above enclose it with probability
    $1 - 2 P(\mathrm{Bin}(n, 1/2) \le j)$. j is the largest for which that is at least ``level``:
    of 25 values the 8th and the 18th.

    Args:
      values: independent measurements.
      level: in (0, 1).

    Returns:
      The median and the interval.

    Raises:
      ValueError: if there are too few values for that level; 0.95 takes 6.

    Example:
      >>> median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 9.0])
      MedianInterval(median=3.5, low=1.0, high=9.0)
    """
    n = len(values)
    outside, last = 0.0, -1
    for j in range(n):
        outside += 2 * math.comb(n, j) / 2**n
        if 1 - outside < level:
            break
        last = j
    if last < 0:
        raise ValueError(f"{n} values are too few for an interval of level {level}.")
    ordered = sorted(values)
    return MedianInterval(statistics.median(ordered), ordered[last], ordered[n - 1 - last])
