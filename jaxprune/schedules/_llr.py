"""LLR: linear learning-rate restarting."""

from __future__ import annotations

import optax

from jaxprune._checks import check_steps
from jaxprune.schedules._decay import linear_decay
from jaxprune.schedules._table import Table, lookup, pretraining_table
from jaxprune.schedules._warmup import after_warmup, warmup_steps


def llr(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.1,
) -> optax.Schedule:
    """Linear learning-rate restarting (LLR): from the highest pretraining rate to zero.

        η(i) = η_max / 2 · (1 - cos(π i / w))       i < w
        η(i) = η_max · (1 - (i - w) / K)            i >= w

    so that the last step uses η_max / K. The paper's formula has no warm-up; the 10 % here is
    that of the paper's experiments and code. Pass ``warmup=0`` for the bare line.

    Args:
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      pretraining_warmup_steps: W, the warm-up steps of the dense run; checked, but of no effect.
      warmup: fraction of ``retraining_steps`` of half-cosine warm-up from 0 to η_max.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer or ``pretraining`` is not a schedule.
      ValueError: if an argument is out of range, or a pretraining rate negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import optax
      >>> dense = optax.constant_schedule(0.1)
      >>> schedule = llr(dense, pretraining_steps=160, retraining_steps=6, warmup=1 / 3)
      >>> print(np.asarray(schedule(jnp.arange(6))).round(4))
      [0.    0.05  0.1   0.075 0.05  0.025]

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    return lookup(
        llr_table(
            pretraining,
            pretraining_steps=pretraining_steps,
            retraining_steps=retraining_steps,
            pretraining_warmup_steps=pretraining_warmup_steps,
            warmup=warmup,
        )
    )


def llr_table(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    pretraining_warmup_steps: int,
    warmup: float,
) -> Table:
    """The rates of `llr`, one per step."""
    dense = pretraining_table(
        pretraining,
        pretraining_steps=pretraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
    )
    steps = check_steps("retraining_steps", retraining_steps)
    w = warmup_steps(warmup, steps)
    return after_warmup(dense.highest, linear_decay(dense.highest, steps - w), w)
