"""FT: fine-tuning at a constant rate."""

from __future__ import annotations

import warnings

import numpy as np
import optax

from jaxprune._checks import check_steps
from jaxprune.schedules._table import lookup, pretraining_table
from jaxprune.schedules._warmup import after_warmup, warmup_steps

# The deepest step decay among the papers below divides by 1000 (ImageNet, 0.4 to 0.0004) and is
# meant; a linear or cosine decay ends at about 1 / T of its peak or less, and is not.
PRACTICALLY_ZERO = 5e-4


def ft(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.0,
    minimum: bool = False,
) -> optax.Schedule:
    """Fine-tuning (FT): the last learning rate of pretraining, held constant.

    The rate is ``pretraining(T - 1)``, as the papers say. The code of Zimmer et al. takes the
    lowest rate after the pretraining warm-up instead: pass ``minimum=True`` for that. The two
    coincide where the pretraining schedule never rises after its warm-up.

    Args:
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      pretraining_warmup_steps: W, the warm-up steps of the dense run. Used by ``minimum`` only.
      warmup: fraction of ``retraining_steps`` of half-cosine warm-up from 0. None by default, as
        in all the papers.
      minimum: whether to take the lowest rate after W in place of the last.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer or ``pretraining`` is not a schedule.
      ValueError: if an argument is out of range, or a pretraining rate negative or not finite.

    Warns:
      UserWarning: if the rate is below 5e-4 of the highest pretraining rate: practically zero, as
        after a linear or cosine decay. Retraining would then change little.

    Example:
      >>> import optax
      >>> dense = optax.piecewise_constant_schedule(0.1, {80: 0.1, 120: 0.1})
      >>> schedule = ft(dense, pretraining_steps=160, retraining_steps=72)
      >>> print(f"{schedule(0):.3f} {schedule(71):.3f}")
      0.001 0.001

    References:
      Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS
      2015. Renda, Frankle, Carbin, Comparing Rewinding and Fine-tuning in Neural Network Pruning,
      ICLR 2020. Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining,
      ICLR 2023.
    """
    dense = pretraining_table(
        pretraining,
        pretraining_steps=pretraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
    )
    steps = check_steps("retraining_steps", retraining_steps)
    w = warmup_steps(warmup, steps)
    rate = dense.lowest if minimum else float(dense.rates[-1])
    if rate < PRACTICALLY_ZERO * dense.highest:
        what = "lowest" if minimum else "last"
        warnings.warn(
            f"ft retrains at the {what} pretraining rate, {rate:.3g}: practically zero next to "
            f"the highest, {dense.highest:.3g}. Another schedule (llr, allr) retrains at larger "
            "rates; for a rate of your choice use constant(..., peak=...).",
            UserWarning,
            stacklevel=2,
        )
    return lookup(after_warmup(rate, np.full(steps - w, rate), w))
