"""Means over seeds, and intervals of paired differences."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST_SEEDS = 3
"""For an interval: of two seeds the scatter is one number, which says next to nothing."""

_EXACT = 6  # seeds up to which all resamples are looked at
_RESAMPLES = 20_000


class Interval(NamedTuple):
    """A mean difference and its 95 % interval, `None` where there are too few seeds."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def bootstrap(differences: Sequence[float]) -> Interval:
    """The percentile bootstrap of a mean, over seeds.

    Up to six seeds all resamples are enumerated; beyond, 20,000 are drawn with a fixed seed. Of few
    seeds such an interval is too short rather than too long: read it as "all seeds agree" or not.

    Args:
      differences: one a seed.

    Raises:
      ValueError: if there is none.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = np.asarray(differences, float)
    if not values.size:
        raise ValueError("there are no pairs to compare.")
    n = len(values)
    if n < FEWEST_SEEDS:
        return Interval(float(values.mean()), None, None, n)
    if n <= _EXACT:
        means = np.array([np.mean(some) for some in itertools.product(values, repeat=n)])
    else:
        drawn = np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
        means = values[drawn].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high), n)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, `None` of fewer than two."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return math.fsum(values) / len(values), std
