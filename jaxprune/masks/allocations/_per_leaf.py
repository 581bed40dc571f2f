"""Per leaf: sparsities written out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune import _count, _tree
from jaxprune._tree import PyTree
from jaxprune.masks.allocations._allocation import (
    Allocation,
    OnCollapse,
    Pools,
    check_on_collapse,
    one_each,
)
from jaxprune.masks.allocations._proportional import proportional
from jaxprune.masks.allocations._rules import per_leaf_numbers


def per_leaf(sparsities: Any, *, on_collapse: OnCollapse = "error") -> Allocation:
    """Removes a given fraction of each leaf.

    Exactly ``round(sparsity_i * n_i)`` of the n_i weights of a named leaf go. Leaves that are not
    named share what remains of the total at one density, so that the total is exact; with
    ``sparsity=None`` they stay dense. If all leaves are named, the sparsity passed to `make` is
    `None`, or what their counts add up to (to within one weight a leaf, by rounding).

    Args:
      sparsities: a tree like the parameters of numbers in [0, 1], `None` where nothing is said; or
        rules ``{path or regular expression of a whole path: number}``, of which the first that
        matches counts. Pairs in a list do as well as a mapping.
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`. It raises ValueError if a rule matches no
      leaf, if a number lies outside [0, 1], or if they cannot add up to the sparsity asked for.

    Raises:
      ValueError: if ``on_collapse`` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"conv": jnp.arange(4.0), "dense": jnp.arange(8.0)}
      >>> mask = jp.masks.make(scores, 0.5, allocation=per_leaf({"conv": 0.25}))
      >>> [row.kept for row in jp.metrics.sparsity_per_leaf(mask)]  # 6 of 12 in all
      [3, 3]
      >>> mask = jp.masks.make(scores, None, allocation=per_leaf({"conv": 0.25}))
      >>> [row.kept for row in jp.metrics.sparsity_per_leaf(mask)]
      [3, 8]
    """
    check_on_collapse(on_collapse)

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # counts are as written
        given = per_leaf_numbers(sparsities, scores, what="per_leaf")
        paths = [path for path, _ in _tree.named_leaves(scores)]
        number = len(jax.tree.leaves(scores))

        def written(sizes: Sequence[int]) -> tuple[int, ...]:
            return tuple(round((x or 0.0) * n) for x, n in zip(given, sizes, strict=True))

        def limits(sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
            most = [
                n if x is None else k for x, n, k in zip(given, sizes, written(sizes), strict=True)
            ]
            return written(sizes), tuple(most)

        def counts(sparsity: Any, sizes: Sequence[int]) -> tuple[_count.Count, ...]:
            if sparsity is None:
                return written(sizes)
            if any(x is None for x in given):
                _, pools = proportional(
                    scores, [1.0] * number, limits=limits, on_collapse=on_collapse
                )
                return pools.counts(sparsity, sizes)
            if not _count.is_concrete(sparsity):
                raise ValueError(
                    "per_leaf gives the sparsity of every leaf, so a traced total has nothing to "
                    "say; pass sparsity=None, or leave a leaf out."
                )
            total = _count.count(sparsity, sum(sizes))
            if abs(total - sum(written(sizes))) > len(sizes):
                some = ", ".join(paths[:4]) + (", ..." if len(paths) > 4 else "")
                raise ValueError(
                    f"the sparsities cannot add up: {sparsity} of {sum(sizes)} removes {total}, "
                    f"but those of the leaves ({some}) remove {sum(written(sizes))}. Pass "
                    "sparsity=None, or leave a leaf out to make up."
                )
            return written(sizes)

        pools = Pools(one_each(number), counts, on_collapse, fixed=True)
        some = any(x is None for x in given)
        return scores, pools._replace(limits=limits, shared=True) if some else pools

    return allocate
