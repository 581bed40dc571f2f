"""How much two masks agree."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxprune import _host, _tree
from jaxprune._mask import check_pair, count_true
from jaxprune._tree import PyTree


class LeafOverlap(NamedTuple):
    """How two masks agree on one prunable leaf; counts are exact Python integers.

    Attributes:
      path: the readable path of the leaf.
      intersection: weights kept by both.
      union: weights kept by at least one.
      size: all weights of the leaf.
    """

    path: str
    intersection: int
    union: int
    size: int

    @property
    def iou(self) -> float:
        """Intersection over union of the kept weights; 1 where neither mask keeps any."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def hamming(self) -> float:
        """Fraction of the weights on which the masks differ."""
        return (self.union - self.intersection) / self.size if self.size else 0.0


def overlap_per_leaf(a: PyTree, b: PyTree) -> list[LeafOverlap]:
    """Compares two masks of the same parameters, leaf by leaf.

    Args:
      a: a mask, True = kept, `None` where a leaf is not prunable.
      b: another mask of the same parameters.

    Returns:
      One `LeafOverlap` a prunable leaf, in `jax.tree.leaves` order.

    Raises:
      ValueError: if the masks are of different trees; the message names the path.
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> a = {"kernel": jnp.array([True, True, False, False]), "bias": None}
      >>> b = {"kernel": jnp.array([True, False, True, False]), "bias": None}
      >>> overlap_per_leaf(a, b)
      [LeafOverlap(path='kernel', intersection=1, union=3, size=4)]
    """
    check_pair(a, b)
    named = _tree.named_leaves(a)
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    both = count_true([_joined(operator.and_, x, y) for x, y in pairs])
    either = count_true([_joined(operator.or_, x, y) for x, y in pairs])
    return [
        LeafOverlap(path, i, u, _tree.size(leaf))
        for (path, leaf), i, u in zip(named, both, either, strict=True)
    ]


def _joined(f: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    host = [_host.view(x), _host.view(y)]
    return f(x, y) if any(view is None for view in host) else f(*host)


def iou(a: PyTree, b: PyTree) -> float:
    """Returns the intersection over union (Jaccard index) of the weights that two masks keep.

    ``|a and b| / |a or b|``, from exact counts over all prunable weights together. Two random
    masks of density d have about ``d / (2 - d)``.

    Args:
      a: a mask, True = kept, `None` where a leaf is not prunable.
      b: another mask of the same parameters.

    Returns:
      A float in [0, 1]; 1 where neither mask keeps any weight.

    Raises:
      ValueError: if the masks are of different trees; the message names the path.
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, True])}
      >>> jp.metrics.iou(a, b)
      0.3333...
    """
    rows = overlap_per_leaf(a, b)
    union = sum(row.union for row in rows)
    return sum(row.intersection for row in rows) / union if union else 1.0


def hamming(a: PyTree, b: PyTree) -> float:
    """Returns the normalised Hamming distance of two masks.

    The fraction of the prunable weights that exactly one of the masks keeps, from exact counts.

    Args:
      a: a mask, True = kept, `None` where a leaf is not prunable.
      b: another mask of the same parameters.

    Returns:
      A float in [0, 1]; 0 where the masks are equal.

    Raises:
      ValueError: if the masks are of different trees (the message names the path), or have no
        prunable weight.
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, True])}
      >>> jp.metrics.hamming(a, b)
      0.6666...
    """
    rows = overlap_per_leaf(a, b)
    size = sum(row.size for row in rows)
    if not size:
        raise ValueError("the masks have no prunable weight, so their distance is undefined.")
    return sum(row.union - row.intersection for row in rows) / size
