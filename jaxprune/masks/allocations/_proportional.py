"""Allocations that give every leaf a density in a fixed proportion to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _count
from jaxprune._selection import limbs
from jaxprune._tree import PyTree
from jaxprune.masks.allocations import _limits, _shares
from jaxprune.masks.allocations._allocation import OnCollapse, Pools, one_each


def proportional(
    scores: PyTree,
    densities: Sequence[float],
    *,
    limits: Any,
    on_collapse: OnCollapse,
) -> tuple[PyTree, Pools]:
    """Pools of one leaf each, whose densities stand in given proportions until a limit is met.

    Args:
      scores: the scores.
      densities: positive numbers; density_i = min(1, e * densities_i) with one e for all.
      limits: ``limits(sizes)``: the fewest and the most entries that each leaf loses.
      on_collapse: what to do when a leaf loses its last weight.

    Returns:
      The scores and the pools. The total is exact.
    """

    def counts(sparsity: Any, sizes: Sequence[int]) -> tuple[_count.Count, ...]:
        bounds = limits(sizes)
        removed = _limits.total(sparsity, sizes, bounds)
        low, high = ([n - x for n, x in zip(sizes, b, strict=True)] for b in reversed(bounds))
        a = [density * max(n, 1) for density, n in zip(densities, sizes, strict=True)]
        shares = _shares.solve(a, low, high)
        if isinstance(removed, int):
            kept = shares.of(sum(sizes) - removed)
            return tuple(n - k for n, k in zip(sizes, kept, strict=True))
        total = jnp.asarray(limbs.to_limbs(sum(sizes)))
        kept = shares.of_traced(limbs.subtract(total, removed))
        each = jnp.stack([jnp.asarray(limbs.to_limbs(n)) for n in sizes])
        return tuple(limbs.subtract(each, kept))

    pools = one_each(len(jax.tree.leaves(scores)))
    return scores, Pools(pools, counts, on_collapse, limits=limits, shared=True)
