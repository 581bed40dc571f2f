"""From a prune to its retraining schedule in one call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune._tree import PyTree, Where, prunable
from jaxprune.schedules._allr_discount import allr_discount
from jaxprune.schedules._retraining import retraining


def retraining_after(
    params: PyTree,
    pruned_params: PyTree,
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    name: str = "allr",
    pruned_fraction: Any = None,
    where: Where | None = None,
    **options: Any,
) -> tuple[optax.Schedule, float | None]:
    """The retraining schedule after a prune, with ALLR's discount measured from it.

    `allr_discount` and `retraining` in one, so that the step counts are given once. Keep the
    discount with your checkpoint: after a restart the parameters before the prune are gone, and
    ``retraining("allr", ..., discount=discount)`` makes the same schedule again.

    Call it outside of `jit`.

    Args:
      params: the parameters before the prune (any pytree).
      pruned_params: the same after it.
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      name: of the schedule, see `retraining`.
      pruned_fraction: s, the fraction of the weights still there that this prune removed; counted
        if omitted: of the prunable weights that are not zero before, those that are zero after.
      where: ``where(path, leaf) -> bool``, which leaves are prunable, to count; `default_where` if
        omitted.
      **options: further options of `retraining`: ``warmup``, ``peak``, ``minimum``,
        ``pretraining_warmup_steps``.

    Returns:
      A schedule of N steps, and the discount d of ALLR as a Python float; `None` under another
      schedule.

    Raises:
      TypeError, ValueError: what `allr_discount` and `retraining` raise; ValueError, too, if no
        leaf is prunable.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.array([[3.0, 4.0, 1.0, 2.0]])}
      >>> pruned, mask = jp.prune(params, 0.5)
      >>> schedule, discount = jp.schedules.retraining_after(
      ...     params, pruned, optax.constant_schedule(0.1), pretraining_steps=90, retraining_steps=9
      ... )
      >>> print(f"{discount:.4f} {max(schedule(jnp.arange(9))):.4f}")
      0.5774 0.0577

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    lengths = {"pretraining_steps": pretraining_steps, "retraining_steps": retraining_steps}
    if name != "allr":
        return retraining(name, pretraining, **lengths, **options), None
    if "discount" in options:
        raise TypeError(
            "retraining_after measures the discount itself; to use one that was kept, call "
            "retraining('allr', ..., discount=...)."
        )
    if pruned_fraction is None:
        pruned_fraction = _fraction(params, pruned_params, where)
    measured = allr_discount(params, pruned_params, pruned_fraction=pruned_fraction, **lengths)
    discount = float(measured)
    return retraining(name, pretraining, discount=discount, **lengths, **options), discount


def _fraction(params: PyTree, pruned_params: PyTree, where: Where | None) -> float:
    """The fraction of the prunable weights still there that a prune removed, from exact counts."""
    before, after = (jax.tree.leaves(prunable(p, where)) for p in (params, pruned_params))
    there, left = (sum(map(int, jax.device_get(_counts(x)))) for x in (before, after))
    return max(there - left, 0) / there if there else 0.0


@jax.jit
def _counts(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.sum(x != 0, dtype=jnp.uint32) for x in leaves]
