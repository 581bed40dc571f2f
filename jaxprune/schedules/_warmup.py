"""The warm-up before a retraining schedule: a half cosine from zero."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxprune.schedules._table import Table


def warmup_steps(warmup: Any, retraining_steps: int) -> int:
    """Returns w = int(warmup · N), the number of warm-up steps.

    A product within four units in the last place of an integer is that integer: 0.29 · 100 is
    28.999999999999996 in floating point, and 29 steps are meant. For 0.1 this never differs from
    the plain ``int(0.1 * N)``.

    Raises:
      TypeError: if ``warmup`` is not a static number.
      ValueError: if ``warmup`` is outside [0, 1), or so near 1 that no step is left.
    """
    if isinstance(warmup, bool) or not isinstance(warmup, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"warmup must be a static number, but it is {warmup!r} of type "
            f"{type(warmup).__name__}. Pass float(warmup), a fraction of retraining_steps."
        )
    if not 0 <= warmup < 1:
        raise ValueError(
            f"warmup is {warmup}, but it is the fraction of retraining_steps spent on warm-up and "
            "must lie in [0, 1). For a number of steps pass steps / retraining_steps."
        )
    product = float(warmup) * retraining_steps
    nearest = round(product)
    is_whole = abs(product - nearest) <= 4 * math.ulp(product)
    steps = nearest if is_whole else math.floor(product)
    if steps >= retraining_steps:
        raise ValueError(
            f"warmup={warmup} takes all {retraining_steps} retraining steps. Make it smaller."
        )
    return steps


def half_cosine(peak: float, steps: int) -> Table:
    """Returns ``peak / 2 · (1 - cos(π i / steps))`` for i = 0 ... steps - 1."""
    return peak / 2 * (1 - np.cos(np.pi * (np.arange(steps) / max(steps, 1))))


def after_warmup(peak: float, decay: Table, steps: int) -> Table:
    """Returns the table that warms up to ``peak`` over ``steps`` and then follows ``decay``."""
    return np.concatenate([half_cosine(peak, steps), decay])
