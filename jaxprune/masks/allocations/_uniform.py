"""Uniform: every leaf loses the same fraction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune._count import Count, count
from jaxprune._tree import PyTree
from jaxprune.masks.allocations import _limits
from jaxprune.masks.allocations._allocation import (
    Allocation,
    OnCollapse,
    Pools,
    check_on_collapse,
    one_each,
)
from jaxprune.masks.allocations._proportional import proportional


def uniform(
    *,
    max_sparsity: Any = None,
    min_sparsity: Any = None,
    keep_at_least: Any = None,
    on_collapse: OnCollapse = "error",
) -> Allocation:
    """Removes the same fraction of every prunable leaf.

    Exactly ``round(sparsity * n_i)`` of the n_i weights of leaf i go. The total follows from
    these and can differ from ``round(sparsity * n)`` by rounding. With limits it is the total
    that is exact: the leaves that meet no limit share what remains at one density, rounded by
    largest remainder.

    Args:
      max_sparsity: the largest fraction that a leaf may lose; as for `globally`.
      min_sparsity: the smallest fraction that a leaf loses; as for `globally`.
      keep_at_least: how many weights each leaf keeps in any case; as for `globally`.
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`. It raises ValueError if the limits do not
      allow the total, if a rule matches no leaf, or if a limit lies outside [0, 1].

    Raises:
      ValueError: if ``on_collapse`` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}
      >>> mask = jp.masks.make(scores, 0.5, allocation=uniform())
      >>> mask["a"].tolist(), mask["b"].tolist()
      ([False, True], [False, True])

    References:
      Han et al., 2015, prune layer by layer; Zhu & Gupta, To prune, or not to prune, 2017.
    """
    check_on_collapse(on_collapse)
    limited = any(x is not None for x in (max_sparsity, min_sparsity, keep_at_least))

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # the leaf's count does not depend on what is gone already
        number = len(jax.tree.leaves(scores))
        if limited:
            limits = _limits.LeafLimits(scores, min_sparsity, max_sparsity, keep_at_least)
            return proportional(
                scores,
                [1.0] * number,
                limits=limits.counts,
                on_collapse=on_collapse,
            )

        def counts(sparsity: Any, sizes: Sequence[int]) -> tuple[Count, ...]:
            return tuple(count(sparsity, n) for n in sizes)

        return scores, Pools(one_each(number), counts, on_collapse)

    return allocate
