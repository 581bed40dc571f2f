"""Caps and floors: the fewest and the most entries that each leaf may lose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxprune import _count, _tree
from jaxprune._selection import limbs
from jaxprune._tree import PyTree
from jaxprune.masks.allocations._rules import check_number_kept, per_leaf_numbers

Limits = tuple[tuple[int, ...], tuple[int, ...]]


class LeafLimits:
    """``min_sparsity``, ``max_sparsity``, ``keep_at_least`` of an allocation, for some scores."""

    def __init__(
        self, scores: PyTree, min_sparsity: Any, max_sparsity: Any, keep_at_least: Any = None
    ):
        self.spared = per_leaf_numbers(
            keep_at_least, scores, what="keep_at_least", check=check_number_kept
        )
        self.least = per_leaf_numbers(min_sparsity, scores, what="min_sparsity")
        self.most = per_leaf_numbers(max_sparsity, scores, what="max_sparsity")
        paths = [path for path, _ in _tree.named_leaves(scores)]
        for path, low, high in zip(paths, self.least, self.most, strict=True):
            if low is not None and high is not None and low > high:
                raise ValueError(
                    f"min_sparsity {low} of {path!r} lies above its max_sparsity {high}."
                )

    def counts(self, sizes: Sequence[int]) -> Limits:
        """Entries that each leaf loses at least and at most: fractions of its size, rounded."""
        least = [round((x or 0.0) * n) for x, n in zip(self.least, sizes, strict=True)]
        most = [n if x is None else round(x * n) for x, n in zip(self.most, sizes, strict=True)]
        # A leaf that has no more than is to stay loses nothing, whatever else is asked.
        rest = [max(n - (k or 0), 0) for k, n in zip(self.spared, sizes, strict=True)]
        return tuple(map(min, least, rest)), tuple(map(min, most, rest))


def total(sparsity: Any, sizes: Sequence[int], limits: Limits) -> _count.Count:
    """How many of all entries go, which must be possible within the limits.

    Args:
      sparsity: fraction removed; Python number or traced scalar.
      sizes: entries of each leaf.
      limits: fewest and most that each may lose.

    Returns:
      A Python integer, or limbs for a traced sparsity. Traced, a total outside of what is possible
      is moved to the nearest that is possible.

    Raises:
      ValueError: outside `jit`, if the limits do not allow the total.
    """
    n = sum(sizes)
    k = _count.count(sparsity, n)
    least, most = map(sum, limits)
    if isinstance(k, int):
        if not least <= k <= most:
            raise ValueError(
                f"the sparsities cannot add up: {sparsity} of {n} removes {k}, but the limits of "
                f"the leaves allow from {least} to {most} "
                f"({least / n:.4g} to {most / n:.4g}). Change the sparsity or the limits."
            )
        return k
    return limbs.minimum(limbs.maximum(k, limbs.to_limbs(least)), limbs.to_limbs(most))
