"""The shapes after the warm-up, each K rates long."""

from __future__ import annotations

import numpy as np

from jaxprune.schedules._table import Pretraining, Table


def linear_decay(peak: float, steps: int) -> Table:
    """Returns ``peak · (1 - k / steps)`` for k = 0 ... steps - 1; the last is ``peak / steps``."""
    return peak * (1 - np.arange(steps) / steps)


def cosine_decay(peak: float, end: float, steps: int) -> Table:
    """Returns the half cosine from ``peak`` at k = 0 towards ``end`` at k = steps."""
    return end + (peak - end) / 2 * (1 + np.cos(np.pi * (np.arange(steps) / steps)))


def compressed(pretraining: Pretraining, steps: int) -> Table:
    """Returns the pretraining rates at steps ⌊k T / steps⌋, its warm-up replaced by its maximum.

    Nearest neighbour, not interpolation: a step schedule must keep its steps. The index is exact
    in int64; k T passes 2**31 already at T = 46,341.
    """
    index = np.arange(steps, dtype=np.int64) * len(pretraining.rates) // steps
    return np.where(index < pretraining.warmup_steps, pretraining.highest, pretraining.rates[index])
