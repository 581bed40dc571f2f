"""LRW: learning-rate rewinding."""

from __future__ import annotations

import numpy as np
import optax

from jaxprune._checks import check_steps
from jaxprune.schedules._table import lookup, pretraining_table
from jaxprune.schedules._warmup import half_cosine, warmup_steps


def lrw(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.0,
) -> optax.Schedule:
    """Learning-rate rewinding (LRW): the last N steps of the pretraining schedule again.

        η(i) = pretraining(T - N + i)

    A pretraining warm-up inside that window is replayed with it. Rates are rewound by step; the
    codes of the papers do so by step too, or by whole epoch.

    Renda et al. rewind nothing but the rate: weights and optimizer go on as they are. In
    `jaxprune.training.imp` that is ``optimizer_state="keep"``; retraining is then, to the bit, the
    loop of the dense run going on under the mask.

    Args:
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N <= T, the length of this retraining in steps.
      pretraining_warmup_steps: W, the warm-up steps of the dense run; checked, but of no effect.
      warmup: fraction of ``retraining_steps`` of extra warm-up: the first w rates are replaced by
        a half cosine from 0 to the rate at step w. None by default, as in all the papers.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer or ``pretraining`` is not a schedule.
      ValueError: if N > T, an argument is out of range, or a pretraining rate negative or not
        finite.

    Example:
      >>> import optax
      >>> dense = optax.piecewise_constant_schedule(0.1, {80: 0.1, 120: 0.1})
      >>> schedule = lrw(dense, pretraining_steps=160, retraining_steps=72)
      >>> print(*(f"{schedule(i):.3f}" for i in (0, 31, 32, 71)))
      0.010 0.010 0.001 0.001

    References:
      Renda, Frankle, Carbin, Comparing Rewinding and Fine-tuning in Neural Network Pruning, ICLR
      2020.
    """
    dense = pretraining_table(
        pretraining,
        pretraining_steps=pretraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
    )
    steps = check_steps("retraining_steps", retraining_steps)
    if steps > len(dense.rates):
        raise ValueError(
            f"lrw rewinds by retraining_steps={steps}, but pretraining_steps is "
            f"{len(dense.rates)}: there is no such window. Retrain for at most that long, or use "
            "slr, which stretches the schedule."
        )
    w = warmup_steps(warmup, steps)
    window = dense.rates[len(dense.rates) - steps :]
    return lookup(np.concatenate([half_cosine(float(window[w]), w), window[w:]]))
