"""How many bytes a network takes: as it is, without its pruned weights, and compressed."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._mask import check_bool, count_true
from jaxprune._tree import PyTree


class LeafBytes(NamedTuple):
    """The bytes of one leaf, as exact Python integers.

    Attributes:
      path: the readable path of the leaf.
      dense: as it is stored.
      packed: its kept weights and a bitmap of which they are; ``dense`` where nothing is removed.
      compressed: what zlib makes of the leaf with zeros for what is removed; `None` if that was
        not asked for.
    """

    path: str
    dense: int
    packed: int
    compressed: int | None


class SizeInBytes(NamedTuple):
    """What `size_in_bytes` returns.

    Attributes:
      leaves: one entry a leaf of the parameters, in `jax.tree.leaves` order.
    """

    leaves: tuple[LeafBytes, ...]

    @property
    def dense(self) -> int:
        """Bytes of all leaves as they are stored."""
        return sum(leaf.dense for leaf in self.leaves)

    @property
    def packed(self) -> int:
        """Bytes of the kept weights of all leaves and of their bitmaps."""
        return sum(leaf.packed for leaf in self.leaves)

    @property
    def compressed(self) -> int | None:
        """Bytes of all leaves, each compressed for itself; `None` if that was not asked for."""
        sizes = [leaf.compressed for leaf in self.leaves if leaf.compressed is not None]
        return sum(sizes) if len(sizes) == len(self.leaves) else None


def size_in_bytes(
    params: PyTree, mask: PyTree | None = None, *, zlib_level: int | None = None
) -> SizeInBytes:
    r"""Counts the bytes of a network, dense and without what is pruned.

    A leaf of $n$ weights of $b$ bytes each, of which $k < n$ are kept, takes

    $$\mathrm{dense} = n b, \qquad \mathrm{packed} = k b + \lceil n / 8 \rceil,$$

    the kept values in a row and one bit a weight that says where they belong. A leaf of which
    nothing is removed needs no bitmap: packed is dense. Where whole channels go, the size of the
    shrunk network says what is left without any bitmap. (`jaxprune.masks.pack` keeps the axes of a
    leaf, and may pad one of them to whole bytes.)

    What a general-purpose compressor finds is a measurement, not a formula: with ``zlib_level``
    each leaf is compressed (DEFLATE, in zlib's format), which takes seconds for a large network.
    The compressor profits from regularity among the kept weights too, and for few of them it beats
    the bitmap.

    Args:
      params: any pytree of arrays, of any dtype; `jax.ShapeDtypeStruct` serve where no value is
        needed (with a mask, or as dense ones).
      mask: bool arrays, True = kept, `None` where a leaf is not prunable and counts as dense. If
        omitted, entries of floating leaves that are zero count as removed.
      zlib_level: 1 (fast) to 9 (small), to measure the compressed size too.

    Returns:
      The bytes, a line a leaf, with totals, as exact Python integers.

    Raises:
      ValueError: if the mask is of another tree, the level is none of zlib's, or a leaf without
        values is to be compressed; if ``params`` is a Flax NNX module with tied variables.
      TypeError: if a leaf of the mask is not boolean, or the level no integer.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"bias": jnp.ones(4), "kernel": jnp.ones((16, 16), jnp.bfloat16)}
      >>> mask = {"bias": None, "kernel": jnp.zeros((16, 16), bool).at[:2].set(True)}
      >>> size = jp.metrics.size_in_bytes(params, mask)
      >>> size.dense, size.packed
      (528, 112)
      >>> size.leaves[1]
      LeafBytes(path='kernel', dense=512, packed=96, compressed=None)
      >>> jp.metrics.size_in_bytes(params, mask, zlib_level=9).leaves[1].compressed < 96
      True

    References:
      Han, Mao, Dally, Deep Compression, ICLR 2016; Deutsch, RFC 1951 (DEFLATE).
    """
    levels = range(1, 10)
    if isinstance(zlib_level, bool) or not isinstance(zlib_level, (int, np.integer, type(None))):
        raise TypeError(f"zlib_level is an integer from 1 to 9, or None; got {zlib_level!r}.")
    if zlib_level is not None and zlib_level not in levels:
        raise ValueError(f"zlib_level is 1 (fast) to 9 (small); got {zlib_level}.")
    _tree.check_untied(params)
    if mask is not None:
        mask = _tree.expanded(mask, params)
        _tree.check_matches(mask, params)
        check_bool(mask)
    kept = _kept(params, mask)
    counts = iter(count_true([m for m in kept if m is not None]))
    rows = []
    for (path, leaf), m in zip(_tree.named_leaves(params), kept, strict=True):
        n, width = _tree.size(leaf), _array(leaf).dtype.itemsize
        left = n if m is None else next(counts)
        packed = n * width if left == n else left * width + -(-n // 8)
        compressed = None if zlib_level is None else _compressed(path, leaf, m, int(zlib_level))
        rows.append(LeafBytes(path, n * width, packed, compressed))
    return SizeInBytes(tuple(rows))


def _kept(params: PyTree, mask: PyTree | None) -> list[Any]:
    """For each leaf of ``params`` which of its entries are kept, `None` for all of them."""
    if mask is None:
        return [
            leaf != 0 if _tree.is_floating(leaf) and not _is_abstract(leaf) else None
            for leaf in map(_array, jax.tree.leaves(params))
        ]
    leaves = jax.tree.leaves(params, is_leaf=_tree.is_absent)
    beside = jax.tree.leaves(mask, is_leaf=_tree.is_absent)
    return [
        None if _tree.is_absent(m) else m
        for leaf, m in zip(leaves, beside, strict=True)
        if not _tree.is_absent(leaf)
    ]


def _compressed(path: str, leaf: Any, kept: Any, level: int) -> int:
    if _is_abstract(leaf):
        raise ValueError(
            f"the leaf {path!r} is a shape without values, so it cannot be compressed. Pass "
            "arrays, or leave out zlib_level."
        )
    leaf = _array(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    values = np.asarray(leaf)
    if kept is not None:
        values = np.where(np.asarray(kept), values, np.zeros((), values.dtype))
    return len(zlib.compress(np.ascontiguousarray(values).tobytes(), level))


def _array(leaf: Any) -> Any:
    """The leaf, or an array of it if it is a Python number."""
    return leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
