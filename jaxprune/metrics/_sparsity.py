"""Sparsity, from exact counts."""

from __future__ import annotations

from typing import NamedTuple

from jaxprune import _mask, _tree
from jaxprune._tree import PyTree


class LeafSparsity(NamedTuple):
    """The counts of one prunable leaf, as exact Python integers."""

    path: str
    kept: int
    size: int

    @property
    def sparsity(self) -> float:
        """Fraction removed of this leaf."""
        return (self.size - self.kept) / self.size if self.size else 0.0


def sparsity_per_leaf(mask: PyTree) -> list[LeafSparsity]:
    """Counts the kept weights of each prunable leaf.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.

    Returns:
      One `LeafSparsity` a prunable leaf, in `jax.tree.leaves` order.

    Raises:
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.metrics.sparsity_per_leaf({"kernel": jnp.array([[True, False]]), "bias": None})
      [LeafSparsity(path='kernel', kept=1, size=2)]
    """
    _mask.check_bool(mask)
    named = _tree.named_leaves(mask)
    kept = _mask.count_true([leaf for _, leaf in named])
    return [
        LeafSparsity(path, k, _tree.size(leaf)) for (path, leaf), k in zip(named, kept, strict=True)
    ]


def counts(mask: PyTree) -> tuple[int, int]:
    """Returns (kept, all) prunable weights as exact Python integers."""
    rows = sparsity_per_leaf(mask)
    return sum(row.kept for row in rows), sum(row.size for row in rows)


def sparsity(mask: PyTree) -> float:
    """Returns the fraction of the prunable weights that the mask removes.

    Computed from exact integer counts, over prunable leaves only.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.

    Returns:
      The fraction removed, in [0, 1].

    Raises:
      ValueError: if the mask has no leaf.
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.sparsity({"kernel": jnp.array([[True, False, False, False]])})
      0.75
    """
    kept, total = counts(mask)
    if not total:
        raise ValueError("the mask has no prunable weight, so its sparsity is undefined.")
    return (total - kept) / total
