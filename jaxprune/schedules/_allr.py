"""ALLR: adaptive linear learning-rate restarting."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

from jaxprune._checks import check_scalar
from jaxprune._tree import is_traced
from jaxprune.schedules._llr import llr_table
from jaxprune.schedules._table import lookup


def allr(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    discount: Any,
    pretraining_warmup_steps: int = 0,
    warmup: float = 0.1,
) -> optax.Schedule:
    """Adaptive linear learning-rate restarting (ALLR): `llr`, discounted by what pruning did.

        η(i) = d · llr(i)

    with d from `allr_discount`. The warm-up is discounted too: it leads to d η_max.

    Args:
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      discount: d in (0, 1], a scalar; may be traced (and is then not checked).
      pretraining_warmup_steps: W, the warm-up steps of the dense run; checked, but of no effect.
      warmup: fraction of ``retraining_steps`` of half-cosine warm-up from 0 to d η_max.

    Returns:
      A schedule of N steps.

    Raises:
      TypeError: if a step count is not a static integer, ``pretraining`` is not a schedule or
        ``discount`` is not a number.
      ValueError: if an argument is out of range, or a pretraining rate negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import optax
      >>> dense = optax.constant_schedule(0.1)
      >>> schedule = allr(
      ...     dense, pretraining_steps=160, retraining_steps=6, discount=0.5, warmup=1 / 3
      ... )
      >>> print(np.asarray(schedule(jnp.arange(6))).round(4))
      [0.     0.025  0.05   0.0375 0.025  0.0125]

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    d = check_scalar("discount", discount)
    if not is_traced(d) and not 0 < float(d) <= 1:
        raise ValueError(
            f"discount is {float(d)}, but must lie in (0, 1]. Compute it with allr_discount."
        )
    table = llr_table(
        pretraining,
        pretraining_steps=pretraining_steps,
        retraining_steps=retraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
        warmup=warmup,
    ).astype(np.float32)
    if not is_traced(d):
        return lookup(table * np.float32(d))
    undiscounted = lookup(table)
    return lambda count: d * undiscounted(count)
