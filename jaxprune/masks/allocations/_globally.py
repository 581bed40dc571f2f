"""Global: one threshold for the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune._count import Count, count
from jaxprune._tree import PyTree
from jaxprune.masks.allocations import _limits
from jaxprune.masks.allocations._allocation import Allocation, OnCollapse, Pools, check_on_collapse


def globally(
    *,
    max_sparsity: Any = None,
    min_sparsity: Any = None,
    keep_at_least: Any = None,
    on_collapse: OnCollapse = "error",
) -> Allocation:
    """Counts all prunable weights together: one threshold for the whole network.

    Exactly ``round(sparsity * n)`` of the n prunable weights go, wherever their scores are lowest.
    With limits, a leaf loses its ``round(min_sparsity * n_i)`` lowest in any case and keeps all
    but its ``round(max_sparsity * n_i)`` lowest in any case; what a limit saves or takes, the other
    leaves make up for, so that the total stays exact.

    Args:
      max_sparsity: the largest fraction that a leaf may lose: a number for every leaf, rules
        ``{path or regular expression of a whole path: number}`` of which the first that matches
        counts, or a tree like the scores. Leaves that are not named have no limit.
      min_sparsity: the smallest fraction that a leaf loses; as ``max_sparsity``.
      keep_at_least: how many weights, or groups of a pattern, each leaf keeps in any case: an
        integer for every leaf, or rules or a tree as for ``max_sparsity``. A leaf that has no more
        stays whole. It is the alternative to an error where a leaf would lose its last weight.
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
      >>> mask = jp.masks.make(scores, 0.25, allocation=globally())
      >>> mask["a"].tolist(), mask["b"].tolist()
      ([False, True], [True, True])
      >>> mask = jp.masks.make(scores, 0.5, allocation=globally(max_sparsity={"a": 0.5}))
      >>> mask["a"].tolist(), mask["b"].tolist()
      ([False, True], [False, True])

    References:
      Zimmer et al., ICLR 2023, section 2: global magnitude pruning is the default of IMP.
    """
    check_on_collapse(on_collapse)
    limited = any(x is not None for x in (max_sparsity, min_sparsity, keep_at_least))

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # the pool's count does not depend on what is gone already
        everything = tuple(range(len(jax.tree.leaves(scores))))
        limits = _limits.LeafLimits(scores, min_sparsity, max_sparsity, keep_at_least)

        def counts(sparsity: Any, sizes: Sequence[int]) -> tuple[Count, ...]:
            if limited:
                return (_limits.total(sparsity, sizes, limits.counts(sizes)),)
            return (count(sparsity, sum(sizes)),)

        return scores, Pools((everything,), counts, on_collapse, limits.counts if limited else None)

    return allocate
