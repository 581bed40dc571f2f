"""Which of several equal entries go: those before a position, found by counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._selection import limbs, ordering
from jaxprune._selection._passes import Leaf, digits_true, split_rows
from jaxprune._selection._shards import sum_over_shards
from jaxprune._selection._unstack import unstack

_POINTS = 3


def positions(
    leaves: Sequence[Leaf], keys: Sequence[jax.Array], take: jax.Array, tied: jax.Array
) -> list[jax.Array]:
    """Finds for each leaf the position ``(row, column)`` before which so many entries equal a key.

    One search for all leaves together: each pass counts in the leaves whose search goes on and
    skips the others. Of a pool at most one leaf gives a part of its equal entries, so a pass reads
    about one leaf a pool.

    Args:
      leaves: the leaves; each part of one that has parts counts as a leaf.
      keys: the key of each leaf, scalars, or ``[parts]``.
      take: how many entries of each leaf, ``[leaves, limbs]``, from 0 to ``tied``.
      tied: how many entries of each leaf equal its key, ``[leaves, limbs]``.

    Returns:
      One uint32 ``[2]`` a leaf, or ``[parts, 2]``.
    """
    shapes = [leaf.part_shape for leaf in leaves for _ in range(leaf.parts or 1)]
    split = [split_rows(shape) for shape in shapes]
    rows = np.asarray([n for n, _ in split])
    row_sizes = np.asarray([n for _, n in split], np.uint32)
    # Where the position lies if a leaf gives all or none of its equal entries is known at once.
    partly = limbs.less(take, tied)
    some = jnp.any(take > 0, axis=-1)
    none = take[:, 0] & 0  # zeros of the type of the data, as in the search for the threshold
    row = none
    if rows.any():  # huge leaves: first the row that the position is in
        numbers = [
            int(np.prod(shape[:n], dtype=np.int64)) if n else 0
            for shape, n in zip(shapes, rows, strict=True)
        ]
        counts = np.asarray(numbers, np.uint32)
        low, high = jnp.where(partly, none, counts), jnp.where(some, counts, none)
        row = _search(leaves, keys, take, low, high, none)
        row = jnp.where(rows > 0, row, none)
        inside = (row < counts) | (rows == 0)
        low = jnp.where(partly | (rows > 0), none, row_sizes)
        high = jnp.where(some & inside, row_sizes, none)
    else:
        low, high = jnp.where(partly, none, row_sizes), jnp.where(some, row_sizes, none)
    column = _search(leaves, keys, take, low, high, none, row=row)
    return _each(leaves, jnp.stack([row, column], axis=1))


def _each(leaves: Sequence[Leaf], table: jax.Array) -> list[jax.Array]:
    """The row of each leaf of a table, and the rows of each that has parts."""
    parts = [leaf.parts for leaf in leaves]
    if all(n is None for n in parts):
        return unstack(table)
    ends = np.cumsum([n or 1 for n in parts])
    return [
        table[end - 1] if n is None else table[end - n : end]
        for n, end in zip(parts, ends, strict=True)
    ]


def _search(
    leaves: Sequence[Leaf],
    keys: Sequence[jax.Array],
    take: jax.Array,
    low: jax.Array,
    high: jax.Array,
    zero: jax.Array,
    *,
    row: jax.Array | None = None,
) -> jax.Array:
    """Narrows ``[low, high]`` of each leaf to the last point with at most ``take`` entries before.

    Points are columns of the given rows, or rows if none are given.
    """

    def count(points: jax.Array, open_: jax.Array) -> jax.Array:
        """Counts the equal entries before each point, ``[leaves, points, limbs]``."""
        rows = points if row is None else jnp.broadcast_to(row[:, None], points.shape)
        columns = jnp.zeros_like(points) if row is None else points
        table = [rows, columns, open_.astype(jnp.uint32)[:, None], zero[:, None]]
        digits = []
        for i, own in enumerate(_each(leaves, jnp.concatenate(table, axis=1))):
            leaf, at = leaves[i], own[..., : 2 * _POINTS].reshape(*own.shape[:-1], 2, _POINTS)
            cut = leaf.parts is not None
            branches = _read_or_skip(leaf.dtype, wide=leaf.wide, whole=leaf.whole, cut=cut)
            going = jnp.any(own[..., 2 * _POINTS] > 0)
            found = jax.lax.cond(going, *branches, leaf.arrays, keys[i], at, own[..., -1:])
            digits.append(found if cut else found[None])
        return limbs.from_digits(jnp.concatenate(digits))

    def step(bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        stride = jnp.maximum((high - low) // (_POINTS + 1), 1)
        offsets = stride[:, None] * jnp.arange(1, _POINTS + 1, dtype=jnp.uint32)[None]
        points = low[:, None] + jnp.minimum(offsets, (high - low)[:, None])
        open_ = (low < high)[:, None]
        fits = ~limbs.less(take[:, None], count(points, open_[:, 0]))
        up = jnp.max(jnp.where(fits & open_, points, low[:, None]), axis=1)
        down = jnp.min(jnp.where(fits | ~open_, high[:, None], points - 1), axis=1)
        return up, down

    return jax.lax.while_loop(lambda b: jnp.any(b[0] < b[1]), step, (low, high))[0]


@lru_cache  # the same functions for leaves of one kind, which are then traced once a shape
def _read_or_skip(
    dtype: jnp.dtype, *, wide: bool, whole: bool, cut: bool
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    def skip(arrays: Any, key: Any, at: jax.Array, zero: Any) -> jax.Array:
        del arrays, key, zero
        return jnp.repeat(at[..., 0, :, None] & 0, 4 if wide else 1, axis=-1)

    read = partial(_digits_before, dtype=dtype, wide=wide, whole=whole)
    return jax.vmap(read) if cut else read, skip


@partial(jax.jit, static_argnames=("dtype", "wide", "whole"))
def _digits_before(
    arrays: list[jax.Array],
    key: jax.Array,
    at: jax.Array,
    zero: jax.Array,
    *,
    dtype: jnp.dtype,
    wide: bool,
    whole: bool,
) -> jax.Array:
    """Counts the entries equal to a key before positions ``[2, points]``, ``[points, digits]``."""
    shape = arrays[0].shape
    rows, _ = split_rows(shape)

    def local(offsets: Sequence[Any], *args: jax.Array) -> jax.Array:
        *parts, key, at, zero = jax.lax.optimization_barrier(args)
        keys, full = ordering.of_leaf(parts, dtype), shape
        if not rows and not any(isinstance(offset, jax.Array) for offset in offsets):
            keys, full, offsets = keys.reshape(-1), (keys.size,), [0]  # one index, if whole
        # Adding the zero ties the positions to this pass: XLA would hold them in memory, too.
        begin = [jnp.uint32(offset) + zero[0] for offset in offsets]
        place = _places(full, part=keys.shape, offsets=begin)
        equal = keys == key[0]
        flags = [equal & _is_before(place, at[0, j], at[1, j]) for j in range(_POINTS)]
        return digits_true(flags, wide=wide)

    queries = [key[None], at, zero]
    return local([0], *arrays, *queries) if whole else sum_over_shards(local, arrays, queries, 2)


def marked(leaf: Leaf, key: jax.Array, end: jax.Array) -> jax.Array:
    """Marks the entries of a leaf below a key, and those equal to it before a position."""
    mark = partial(_marked, dtype=leaf.dtype)
    return (mark if leaf.parts is None else jax.vmap(mark))(leaf.arrays, key, end)


@partial(jax.jit, static_argnames="dtype")
def _marked(
    arrays: list[jax.Array], key: jax.Array, end: jax.Array, *, dtype: jnp.dtype
) -> jax.Array:
    keys = ordering.of_leaf(arrays, dtype)
    place = _places(keys.shape)
    return (keys < key) | ((keys == key) & _is_before(place, *end))


class _Places(NamedTuple):
    """Where each entry stands: in which row (`None` if there is one row), and where in it."""

    row: jax.Array | None
    column: jax.Array


def _places(
    shape: Sequence[int],
    *,
    part: Sequence[int] | None = None,
    offsets: Sequence[jax.Array | int] | None = None,
) -> _Places:
    """The places of the entries of an array, or of a part of it, in C order."""
    part = shape if part is None else part
    offsets = [0] * len(shape) if offsets is None else offsets

    def index(first: int, last: int) -> jax.Array:
        total = jnp.zeros(part, jnp.uint32)
        stride = 1
        for axis in reversed(range(first, last)):
            along = jax.lax.broadcasted_iota(jnp.uint32, part, axis) + jnp.uint32(offsets[axis])
            total = total + along * jnp.uint32(stride)
            stride *= shape[axis]
        return total

    rows, _ = split_rows(shape)
    return _Places(index(0, rows) if rows else None, index(rows, len(shape)))


def _is_before(place: _Places, row: jax.Array, column: jax.Array) -> jax.Array:
    """Whether each entry comes before a position."""
    if place.row is None:
        return place.column < column
    return (place.row < row) | ((place.row == row) & (place.column < column))
