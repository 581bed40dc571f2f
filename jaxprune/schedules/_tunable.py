"""Schedules whose first rate is yours to tune: constant, stepped, cosine, linear.

They convert a schedule to a budget: the shape is replayed over N steps from the rate ``peak``.
For these the first rate is searched for, where `slr`, `clr` and `llr` take it from pretraining.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from jaxprune._checks import check_rate, check_steps
from jaxprune.schedules._decay import compressed, cosine_decay, linear_decay
from jaxprune.schedules._table import Table, check_pretraining, lookup, pretraining_table
from jaxprune.schedules._warmup import after_warmup, warmup_steps


def constant(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    peak: float,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.0,
) -> optax.Schedule:
    """Constant retraining: the rate ``peak`` after the warm-up.

    Args:
      pretraining: the schedule of the dense run; not read, here so that all schedules are called
        alike.
      pretraining_steps: T, its length in steps; checked, but of no effect.
      retraining_steps: N, the length of this retraining in steps.
      peak: the rate.
      pretraining_warmup_steps: W, the warm-up steps of the dense run; checked, but of no effect.
      warmup: fraction of ``retraining_steps`` of half-cosine warm-up from 0 to ``peak``.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer or ``pretraining`` is not a schedule.
      ValueError: if an argument is out of range.

    Example:
      >>> import optax
      >>> dense = optax.constant_schedule(0.1)
      >>> print(constant(dense, pretraining_steps=160, retraining_steps=6, peak=0.02)(5))
      0.02

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    _check_unread(pretraining, pretraining_steps, pretraining_warmup_steps)
    peak, steps, w = _check(peak, retraining_steps, warmup)
    return lookup(after_warmup(peak, np.full(steps - w, peak), w))


def stepped(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    peak: float,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.0,
) -> optax.Schedule:
    """Stepped budget-aware conversion: the pretraining schedule, compressed and rescaled.

        η(i) = peak / η_max · pretraining(⌊(i - w) T / K⌋)       i >= w

    where the pretraining warm-up (steps below W) is replaced by η_max: `slr` with a free peak and,
    by default, no warm-up.

    Args:
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      peak: the highest rate.
      pretraining_warmup_steps: W, the warm-up steps of the dense run.
      warmup: fraction of ``retraining_steps`` of half-cosine warm-up from 0 to ``peak``.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer or ``pretraining`` is not a schedule.
      ValueError: if an argument is out of range, or a pretraining rate negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import optax
      >>> dense = optax.piecewise_constant_schedule(0.1, {80: 0.1, 120: 0.1})
      >>> schedule = stepped(dense, pretraining_steps=160, retraining_steps=4, peak=0.02)
      >>> print(np.asarray(schedule(jnp.arange(4))).round(5))
      [0.02   0.02   0.002  0.0002]

    References:
      Li, Yumer, Ramanan, Budgeted Training: Rethinking Deep Neural Network Training Under Resource
      Constraints, ICLR 2020 (budget-aware conversion).
    """
    dense = pretraining_table(
        pretraining,
        pretraining_steps=pretraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
    )
    peak, steps, w = _check(peak, retraining_steps, warmup)
    shape: Table = compressed(dense, steps - w) / dense.highest
    return lookup(after_warmup(peak, peak * shape, w))


def cosine(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    peak: float,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.0,
) -> optax.Schedule:
    """Cosine retraining: from ``peak`` to zero along a half cosine.

        η(i) = peak / 2 · (1 + cos(π (i - w) / K))       i >= w

    Unlike `clr` it ends at 0, not at η_min.

    Args:
      pretraining: the schedule of the dense run; not read, here so that all schedules are called
        alike.
      pretraining_steps: T, its length in steps; checked, but of no effect.
      retraining_steps: N, the length of this retraining in steps.
      peak: the first rate after the warm-up.
      pretraining_warmup_steps: W, the warm-up steps of the dense run; checked, but of no effect.
      warmup: fraction of ``retraining_steps`` of half-cosine warm-up from 0 to ``peak``.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer or ``pretraining`` is not a schedule.
      ValueError: if an argument is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import optax
      >>> dense = optax.constant_schedule(0.1)
      >>> schedule = cosine(dense, pretraining_steps=160, retraining_steps=4, peak=0.02)
      >>> print(np.asarray(schedule(jnp.arange(4))).round(4))
      [0.02   0.0171 0.01   0.0029]

    References:
      Li, Yumer, Ramanan, Budgeted Training: Rethinking Deep Neural Network Training Under Resource
      Constraints, ICLR 2020.
    """
    _check_unread(pretraining, pretraining_steps, pretraining_warmup_steps)
    peak, steps, w = _check(peak, retraining_steps, warmup)
    return lookup(after_warmup(peak, cosine_decay(peak, 0.0, steps - w), w))


def linear(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    peak: float,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.0,
) -> optax.Schedule:
    """Linear retraining: from ``peak`` to zero along a line.

        η(i) = peak · (1 - (i - w) / K)       i >= w

    `llr` with a free peak and, by default, no warm-up.

    Args:
      pretraining: the schedule of the dense run; not read, here so that all schedules are called
        alike.
      pretraining_steps: T, its length in steps; checked, but of no effect.
      retraining_steps: N, the length of this retraining in steps.
      peak: the first rate after the warm-up.
      pretraining_warmup_steps: W, the warm-up steps of the dense run; checked, but of no effect.
      warmup: fraction of ``retraining_steps`` of half-cosine warm-up from 0 to ``peak``.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer or ``pretraining`` is not a schedule.
      ValueError: if an argument is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import optax
      >>> dense = optax.constant_schedule(0.1)
      >>> schedule = linear(dense, pretraining_steps=160, retraining_steps=4, peak=0.02)
      >>> print(np.asarray(schedule(jnp.arange(4))).round(4))
      [0.02  0.015 0.01  0.005]

    References:
      Li, Yumer, Ramanan, Budgeted Training: Rethinking Deep Neural Network Training Under Resource
      Constraints, ICLR 2020.
    """
    _check_unread(pretraining, pretraining_steps, pretraining_warmup_steps)
    peak, steps, w = _check(peak, retraining_steps, warmup)
    return lookup(after_warmup(peak, linear_decay(peak, steps - w), w))


def _check(peak: Any, retraining_steps: Any, warmup: Any) -> tuple[float, int, int]:
    steps = check_steps("retraining_steps", retraining_steps)
    return check_rate("peak", peak), steps, warmup_steps(warmup, steps)


def _check_unread(pretraining: Any, steps: Any, warmup_steps: Any) -> None:
    # Checked though unread: a sweep over names must not pass here and fail at the next name.
    check_pretraining(pretraining, pretraining_steps=steps, pretraining_warmup_steps=warmup_steps)
