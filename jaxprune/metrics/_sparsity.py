"""Sparsity, from exact counts."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _eager, _host, _sums, _tree
from jaxprune._tree import PyTree

# A uint32 sum of fewer entries than this cannot wrap.
_LIMIT = 1 << 32


class LeafSparsity(NamedTuple):
    """The counts of one prunable leaf, as exact Python integers."""

    path: str
    kept: int
    size: int

    @property
    def sparsity(self) -> float:
        """Fraction removed of this leaf."""
        return (self.size - self.kept) / self.size if self.size else 0.0


def _kept_axes(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """The axes not to sum over, so that each sum has fewer than ``limit`` entries and few remain.

    No single axis of ``shape`` may reach ``limit``.
    """
    axes = range(len(shape))
    choices = (kept for r in range(len(shape) + 1) for kept in itertools.combinations(axes, r))
    remaining = {kept: math.prod(shape[i] for i in kept) for kept in choices}
    fits = [kept for kept, n in remaining.items() if math.prod(shape) // n < limit]
    return min(fits, key=lambda kept: remaining[kept])


def _digit_sums(leaf: jax.Array, limit: int = _LIMIT) -> jax.Array:
    """Counts the True entries of an array of any size, without 64-bit integers.

    Args:
      leaf: bool array of any shape.
      limit: no sum runs over as many entries; smaller ones are for tests.

    Returns:
      uint32 ``[4]``, ``d`` with the count ``sum(d[i] * 256**i)``. Replicated scalars, not the
      partial sums themselves: those would stay on the devices of their shards, which other
      processes cannot read.
    """
    total = jnp.zeros((4,), jnp.uint32)
    for piece in _pieces(leaf, limit):
        kept = _kept_axes(piece.shape, limit)
        summed = tuple(i for i in range(piece.ndim) if i not in kept)
        total = total + _add_digits(_sums.count_true([piece], summed)[0])
    return total


def _add_digits(sums: jax.Array) -> jax.Array:
    """Adds uint32 numbers of any shape digit by digit, to base 256, without carries: ``[4]``."""
    # A digit is below 256, so up to 2**24 numbers are added exactly.
    return jnp.stack([jnp.sum((sums >> s) & 0xFF, dtype=jnp.uint32) for s in (0, 8, 16, 24)])


def _pieces(leaf: jax.Array, limit: int) -> list[jax.Array]:
    """Cuts axes of ``limit`` or more entries (no sum may run over one) into shorter pieces."""
    for axis, n in enumerate(leaf.shape):
        if n >= limit:
            starts = range(0, n, limit // 2)
            cut = [
                jax.lax.slice_in_dim(leaf, start, min(start + limit // 2, n), axis=axis)
                for start in starts
            ]
            return [piece for part in cut for piece in _pieces(part, limit)]
    return [leaf]


@partial(jax.jit, static_argnums=1)
def _count_all(leaves: list[jax.Array], limit: int) -> list[jax.Array]:
    # One uint32 sum is exact for a leaf below 2**32 entries, where an int32 sum would wrap at
    # 2**31 and a float32 mean would already round at 2**24. Larger leaves take a longer way.
    return [
        _sums.count_true([leaf], tuple(range(leaf.ndim)))[0]
        if leaf.size < limit
        else _digit_sums(leaf, limit)
        for leaf in leaves
    ]


def count_true(leaves: Sequence[Any]) -> list[int]:
    """Counts the True entries of bool arrays, exactly at any size.

    Args:
      leaves: bool arrays of any shapes.

    Returns:
      One Python integer an array.
    """
    counts = [0] * len(leaves)
    # The others in one program for all that lie on the same devices.
    elsewhere: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if (host := _host.view(leaf)) is not None:
            counts[i] = int(np.count_nonzero(host))
        else:
            elsewhere.setdefault(_eager.places([leaf]), []).append(i)
    for indices in elsewhere.values():
        sums = jax.device_get(_count_all([leaves[i] for i in indices], _LIMIT))
        for i, digits in zip(indices, sums, strict=True):
            counts[i] = from_digits(digits)
    return counts


def from_digits(digits: np.ndarray) -> int:
    """Puts digit sums of base 256, lowest first, together; a scalar is its own value."""
    return sum(int(d) << (8 * i) for i, d in enumerate(np.atleast_1d(digits)))


def check_booleans(mask: PyTree) -> None:
    """Raises if a leaf of a mask is not boolean.

    Raises:
      TypeError: naming the leaf.
    """
    for path, leaf in _tree.named_leaves(mask):
        if getattr(leaf, "dtype", None) != np.bool_:
            raise TypeError(
                f"a mask holds booleans (True = kept), but the leaf {path!r} has dtype "
                f"{getattr(leaf, 'dtype', type(leaf).__name__)}. Compare first: mask = values != 0."
            )


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
    check_booleans(mask)
    named = _tree.named_leaves(mask)
    kept = count_true([leaf for _, leaf in named])
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
