"""Many small leaves laid out as the rows of one array, so that one compiled kernel serves them all.

A leaf fills as many rows as it needs; what is left of its last row is filled up with zeros, which
are taken off every count. A row belongs to one leaf, so counts of rows add up to counts of leaves,
and the program has the same size for three leaves and for a thousand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _sums
from jaxprune._selection import ordering
from jaxprune._selection._unstack import unstack

# Leaves up to this size are laid out. The copy takes 4 bytes a weight: larger ones go without.
LARGEST = 1 << 19
_FEWEST = 3  # fewer leaves are cheaper to compile one by one
_LENGTHS = tuple(1 << i for i in range(4, 13))
_POINTS = 3
_SLICES = 8  # that many leaves are cut out at constant places, more at places that are data


class Rows(NamedTuple):
    """Small leaves as rows.

    Attributes:
      arrays: the scores ``[rows, length]`` and, where there is one, the state.
      dtype: the floating dtype in which scores are compared.
      fill: the key of what rows are filled up with, ``[1]``.
      filled: how many such entries each member has, ``[members]``.
      members: the places of the leaves in the list of all.
      member: which of ``members`` each row belongs to, ``[rows]``.
      first: the first row of each member, ``[members]``.
      shapes: the shape of each member.
    """

    arrays: list[jax.Array]
    dtype: jnp.dtype
    fill: jax.Array
    filled: np.ndarray
    members: tuple[int, ...]
    member: np.ndarray
    first: np.ndarray
    shapes: tuple[tuple[int, ...], ...]


def arrange(leaves: Sequence[Any]) -> list[Rows]:
    """Lays out the small leaves (see `_passes.Leaf`), those of one format together.

    On several devices nothing is laid out: it would gather what is spread over them.
    """
    by_dtype: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        small = leaf.parts is None and 0 < leaf.scores.size <= LARGEST
        if small and all(map(is_whole, leaf.arrays)):
            by_dtype.setdefault((leaf.dtype, leaf.state is None), []).append(i)
    return [
        _lay_out(leaves, tuple(members))
        for members in by_dtype.values()
        if len(members) >= _FEWEST and sum(leaves[i].scores.size for i in members) < 1 << 31
    ]


def is_whole(x: jax.Array) -> bool:
    """Whether the type of an array says nothing of devices."""
    kind = jax.typeof(x)
    return not kind.manual_axis_type.varying and not any(kind.sharding.spec)


def _lay_out(leaves: Sequence[Any], members: tuple[int, ...]) -> Rows:
    sizes = np.asarray([leaves[i].scores.size for i in members])
    length = min(_LENGTHS, key=lambda n: int(np.sum(-(-sizes // n))) * (n + 32))
    rows = -(-sizes // length)
    dtype = leaves[members[0]].dtype
    arrays = [_joined([ordering.widen(leaves[i].scores, dtype) for i in members], length)]
    if leaves[members[0]].state is not None:
        arrays.append(_joined([leaves[i].state for i in members], length))
    return Rows(
        arrays=arrays,
        dtype=dtype,
        fill=ordering.of_leaf([jnp.zeros((1,), x.dtype) for x in arrays], dtype),
        filled=(rows * length - sizes).astype(np.uint32),
        members=members,
        member=np.repeat(np.arange(len(members)), rows),
        first=np.cumsum(rows) - rows,
        shapes=tuple(leaves[i].scores.shape for i in members),
    )


def _keys_now(rows: Rows, *asked: jax.Array) -> tuple[jax.Array, ...]:
    """The keys, and what is asked of them.

    They are made anew in every pass, for which what is asked must be known: XLA would make them
    once and hold them in memory, which takes longer than the passes.
    """
    *arrays, asked = jax.lax.optimization_barrier((*rows.arrays, asked))
    return ordering.of_leaf(arrays, rows.dtype), *asked


def _joined(arrays: Sequence[jax.Array], length: int) -> jax.Array:
    parts = []
    for x in arrays:
        parts.append(x.reshape(-1))
        if x.size % length:
            parts.append(jnp.zeros((-x.size % length,), x.dtype))
    return jnp.concatenate(parts).reshape(-1, length)


def count_below(rows: Rows, points: jax.Array, pool_of: np.ndarray) -> jax.Array:
    """Counts the keys of each member below the points of its pool, ``[members, points]``.

    Args:
      rows: the rows.
      points: ``[pools, points]``.
      pool_of: the pool of each member.
    """
    if len(set(pool_of.tolist())) == 1:
        own = points[pool_of[0]][None]
    else:
        own = points[pool_of[rows.member]]
    keys, own = _keys_now(rows, own.astype(rows.fill.dtype))
    flags = [keys < own[:, j : j + 1] for j in range(points.shape[1])]
    counts = _by_member(rows, jnp.stack(_sums.count_true(flags, (1,)), axis=1))
    if not rows.filled.any():
        return counts
    fill = rows.fill[None] < points[pool_of].astype(rows.fill.dtype)
    return counts - fill.astype(jnp.uint32) * rows.filled[:, None]


def _by_member(rows: Rows, numbers: jax.Array) -> jax.Array:
    return jax.ops.segment_sum(numbers, rows.member, len(rows.members), indices_are_sorted=True)


def lowest(rows: Rows, keys: jax.Array, take: jax.Array, zero: jax.Array) -> list[jax.Array]:
    """Marks the entries below a key, and the first of those that equal it.

    Args:
      rows: the rows.
      keys: the key of each member, ``[members]``.
      take: how many equal entries of each member to mark, uint32 ``[members]``.
      zero: the number 0, as something that the compiler does not know.

    Returns:
      One bool array a member, of its shape.
    """
    own = keys.astype(rows.fill.dtype)[rows.member][:, None]
    now, at = _keys_now(rows, own)
    (tied,) = _sums.count_true([now == at], (1,))
    before = jnp.cumsum(tied, dtype=jnp.uint32) - tied
    before = before - before[rows.first][rows.member]  # equal entries in earlier rows of the member
    take = take[rows.member]
    take = jnp.minimum(jnp.maximum(take, before) - before, tied)
    length = rows.arrays[0].shape[1]
    column = np.arange(length, dtype=np.uint32)[None]
    none = take & 0
    low = jnp.where(take < tied, none, none + length)
    high = jnp.where(take > 0, none + length, none)

    def step(bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        stride = jnp.maximum((high - low) // (_POINTS + 1), 1)
        points = [low + jnp.minimum(stride * (j + 1), high - low) for j in range(_POINTS)]
        now, at, *points = _keys_now(rows, own, *points)
        counts = _sums.count_true([(now == at) & (column < p[:, None]) for p in points], (1,))
        up, down, going = low, high, low < high
        for point, count in zip(points, counts, strict=True):
            up = jnp.where(going & (count <= take), jnp.maximum(up, point), up)
            down = jnp.where(going & (count > take), jnp.minimum(down, point - 1), down)
        return up, down

    end, _ = jax.lax.while_loop(lambda b: jnp.any(b[0] < b[1]), step, (low, high))

    def marks(end: jax.Array) -> jax.Array:
        now, at, end = _keys_now(rows, own, end)
        return (now < at) | ((now == at) & (column < end[:, None]))

    # A branch of its own, or XLA would compute the marks anew in every kernel that cuts a leaf out.
    made = jax.lax.cond(zero == 0, marks, lambda end: jnp.zeros(rows.arrays[0].shape, bool), end)
    return _taken_apart(rows, made.reshape(-1), zero)


def _taken_apart(rows: Rows, flat: jax.Array, zero: jax.Array) -> list[jax.Array]:
    """The members' entries of an array laid out in rows, flat."""
    length = rows.arrays[0].shape[1]
    starts = rows.first * length
    places: Sequence[Any] = starts.tolist()
    if len(rows.members) > _SLICES:
        # With its place as data, cutting out is one kernel for all leaves of a size.
        places = unstack(zero.astype(jnp.int32) + starts.astype(np.int32))
    out = []
    for shape, place in zip(rows.shapes, places, strict=True):
        size = math.prod(shape)
        if isinstance(place, int):
            part = flat[place : place + size]
        else:
            part = jax.lax.dynamic_slice(flat, (place,), (size,), allow_negative_indices=False)
        out.append(part.reshape(shape))
    return out
