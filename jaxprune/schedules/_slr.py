"""SLR: scaled learning-rate restarting."""

from __future__ import annotations

import optax

from jaxprune._checks import check_steps
from jaxprune.schedules._decay import compressed
from jaxprune.schedules._table import lookup, pretraining_table
from jaxprune.schedules._warmup import after_warmup, warmup_steps


def slr(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.1,
) -> optax.Schedule:
    """Scaled learning-rate restarting (SLR): the whole pretraining schedule, compressed.

        η(i) = η_max / 2 · (1 - cos(π i / w))         i < w
        η(i) = pretraining(⌊(i - w) T / K⌋)           i >= w

    where the pretraining warm-up (steps below W) is replaced by η_max. Nearest neighbour, no
    interpolation; N > T stretches.

    Le & Hua's text rewrites the step pattern instead (divide by 10 at 50 % and 75 % of what
    follows the warm-up) and their code warms up by epoch, from 0.001, with milestones fixed at 0.9
    times 50 % and 75 %. This is the compression of Zimmer et al.; for a pretraining schedule that
    itself drops at 50 % and 75 % it agrees with Le & Hua's text.

    Args:
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      pretraining_warmup_steps: W, the warm-up steps of the dense run.
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
      >>> schedule = slr(dense, pretraining_steps=160, retraining_steps=10, warmup=0.2)
      >>> print(np.asarray(schedule(jnp.arange(10))).round(4))
      [0.    0.05  0.1   0.1   0.1   0.1   0.01  0.01  0.001 0.001]

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
    return lookup(after_warmup(dense.highest, compressed(dense, steps - w), w))
