"""CLR: cyclic learning-rate restarting."""

from __future__ import annotations

import optax

from jaxprune._checks import check_steps
from jaxprune.schedules._decay import cosine_decay
from jaxprune.schedules._table import lookup, pretraining_table
from jaxprune.schedules._warmup import after_warmup, warmup_steps


def clr(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.1,
) -> optax.Schedule:
    """Cyclic learning-rate restarting (CLR): one cycle, up and down a cosine.

        η(i) = η_max / 2 · (1 - cos(π i / w))                               i < w
        η(i) = η_min + (η_max - η_min) / 2 · (1 + cos(π (i - w) / K))       i >= w

    The cycle of Le & Hua's text runs from the lowest pretraining rate to the highest and back.
    Here, as in the code of Zimmer et al., it starts from 0 and ends at the lowest. Le & Hua's code
    starts at η_max / 100, ends at η_max / 10,000 and cycles the momentum between 0.95 and 0.85 as
    well: a schedule cannot, so that part is left to the optimizer.

    Args:
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      pretraining_warmup_steps: W, the warm-up steps of the dense run; η_min is taken after them.
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
      >>> dense = optax.piecewise_constant_schedule(0.1, {80: 0.1, 120: 0.1})
      >>> schedule = clr(dense, pretraining_steps=160, retraining_steps=6, warmup=1 / 3)
      >>> print(np.asarray(schedule(jnp.arange(6))).round(4))
      [0.     0.05   0.1    0.0855 0.0505 0.0155]

    References:
      Le & Hua, Network Pruning That Matters: A Case Study on Retraining Variants, ICLR 2021.
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    dense = pretraining_table(
        pretraining,
        pretraining_steps=pretraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
    )
    steps = check_steps("retraining_steps", retraining_steps)
    w = warmup_steps(warmup, steps)
    decay = cosine_decay(dense.highest, dense.lowest, steps - w)
    return lookup(after_warmup(dense.highest, decay, w))
