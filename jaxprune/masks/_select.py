"""Which weights go: the k smallest scores of a pool of leaves, found by counting.

The threshold of a pool is the largest key t with at most k keys below it. It is bracketed and the
bracket narrowed: each pass reads the scores once and counts how many lie below each of a few points
inside the bracket. Nothing is sorted, concatenated, gathered or copied; a pass only compares and
counts, on each device what it holds. Large pools are first searched in a strided sample, which
costs little and leaves a narrow bracket; the bracket is verified by exact counts, so the sample
decides speed and never the result.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.masks import _count, _keys
from jaxprune.masks._shards import sum_over_shards

# Points a pass: each pass multiplies the resolution by one more than this. Comparing is free on an
# accelerator, which waits for memory; on a CPU three is the fastest (measured on 25.5 M scores).
_POINTS_CPU, _POINTS_ACCELERATOR = 3, 15
_TIE_POINTS = 3
# A pool is sampled from this size on, and about this many of its scores are looked at.
_SAMPLED_FROM, _SAMPLE = 1 << 22, 1 << 18


class Leaf(NamedTuple):
    """One leaf of a selection.

    Attributes:
      scores: floating array of any shape.
      state: mask or codes of the same shape (see `_keys`), or `None`.
      pool: index of the pool in which the leaf is counted.
      dtype: the floating dtype in which the scores of the pool are compared.
    """

    scores: jax.Array
    state: jax.Array | None
    pool: int
    dtype: jnp.dtype


class Selection(NamedTuple):
    """What `smallest` found.

    Attributes:
      removed: one bool array a leaf, True = among the k smallest of its pool.
      counts: uint32 ``[leaves, 2]``, how many entries of each leaf that are, in limbs.
    """

    removed: list[jax.Array]
    counts: jax.Array


def smallest(leaves: Sequence[Leaf], k: jax.Array) -> Selection:
    """Marks the ``k`` smallest entries of each pool of leaves.

    Among entries equal to the k-th, those of lowest index (order of ``leaves``, then C order) are
    marked first: how many are missing is counted, and the position up to which they go is found by
    counting as well.

    Args:
      leaves: the leaves of all pools; each pool has at least one.
      k: uint32 ``[pools, 2]``, how many entries of each pool to mark, in limbs.

    Returns:
      The marks and their counts.
    """
    pools = k.shape[0]
    top = np.zeros((pools,), _wide(leaves))
    for leaf in leaves:
        top[leaf.pool] = np.iinfo(_keys.key_dtype(leaf.dtype)).max
    bracket = _Bracket(jnp.zeros_like(top), jnp.asarray(top), jnp.zeros((pools, 2), jnp.uint32))
    bracket = _sampled(leaves, k, bracket)
    threshold = _narrow(lambda points: _sum_by_pool(leaves, points, pools), k, bracket).low

    # One pass more: how many keys of each leaf lie below the threshold, and how many are equal.
    pool_of = np.asarray([leaf.pool for leaf in leaves])
    following = jnp.where(threshold == top, threshold, threshold + 1)
    counts = _count_each(leaves, jnp.stack([threshold, following], axis=1))
    below, upto = counts[:, 0], counts[:, 1]
    sizes = np.stack([_count.to_limbs(leaf.scores.size) for leaf in leaves])
    tied = _count.subtract(jnp.where((threshold == top)[pool_of][:, None], sizes, upto), below)
    missing = _count.subtract(k, _count.sum_segments(below, pool_of, pools))[pool_of]
    before = _count.sum_before(tied, pool_of)  # equal entries of the pool in earlier leaves
    take = _count.minimum(_count.subtract(_count.maximum(missing, before), before), tied)

    # Where the position lies if a leaf gives all or none of its equal entries is known at once.
    units = np.asarray([_positions(leaf.scores.shape) for leaf in leaves], np.uint32)
    none = jnp.uint32(0)
    first = jnp.where(_count.less(take, tied), none, units)
    last = jnp.where(jnp.any(take > 0, axis=-1), units, none)
    take, first, last = _materialise(take), _materialise(first), _materialise(last)
    keys_of = [threshold[leaf.pool].astype(_keys.key_dtype(leaf.dtype)) for leaf in leaves]
    positions = [
        _position(leaf.scores, leaf.state, keys_of[i], take[i], first[i], last[i], dtype=leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    removed = []
    for leaf, key, position in zip(leaves, keys_of, positions, strict=True):
        keys = _leaf_keys(leaf.scores, leaf.state, leaf.dtype)
        removed.append((keys < key) | ((keys == key) & _before(keys.shape, *position)))
    return Selection(removed, _count.add(below, take))


def count_below(leaf: Leaf, points: Sequence[int]) -> jax.Array:
    """Counts the keys of a leaf below each of some fixed keys, as limbs ``[points, 2]``."""
    query = jnp.asarray(np.asarray(points, _keys.key_dtype(leaf.dtype)))
    return _count.from_digits(_digits_below(leaf.scores, leaf.state, query, dtype=leaf.dtype))


def count_true(flags: jax.Array) -> jax.Array:
    """Counts the True of a bool array, as limbs ``[2]``."""
    local = lambda offsets, flags: _count_true([flags])
    return _count.from_digits(sum_over_shards(local, [flags], [], 2))[0]


def _narrow(
    count: Callable[[jax.Array], jax.Array], k: jax.Array, bracket: "_Bracket"
) -> "_Bracket":
    """Narrows brackets until each holds one key, or its lower end has exactly k keys below."""
    number = _POINTS_CPU if jax.default_backend() == "cpu" else _POINTS_ACCELERATOR

    def unfinished(b: _Bracket) -> jax.Array:
        return (b.low < b.high) & jnp.any(b.below != k, axis=-1)

    def step(b: _Bracket) -> _Bracket:
        stride = jnp.maximum((b.high - b.low) // (number + 1), 1)
        offsets = stride[:, None] * jnp.arange(1, number + 1, dtype=stride.dtype)[None]
        # Where the bracket is shorter than the points, the last ones repeat its upper end.
        points = b.low[:, None] + jnp.minimum(offsets, (b.high - b.low)[:, None])
        return _keep_bracket(b, points, count(points), k, unfinished(b))

    return jax.lax.while_loop(lambda b: jnp.any(unfinished(b)), step, bracket)


class _Bracket(NamedTuple):
    """For each pool: the threshold lies in [low, high], and ``below`` keys are less than low."""

    low: jax.Array
    high: jax.Array
    below: jax.Array


def _keep_bracket(
    b: _Bracket, points: jax.Array, counts: jax.Array, k: jax.Array, open_: jax.Array
) -> _Bracket:
    """Brackets with what was counted at ascending points ``[pools, points]`` inside them."""
    fits = ~_count.less(k[:, None], counts)  # at most k below: the threshold is here or above
    low, below = b.low, b.below
    high = b.high
    for j in range(points.shape[1]):
        up = fits[:, j] & open_
        low = jnp.where(up, points[:, j], low)
        below = jnp.where(up[:, None], counts[:, j], below)
    for j in reversed(range(points.shape[1])):
        high = jnp.where(~fits[:, j] & open_, points[:, j] - 1, high)
    return _Bracket(low, high, below)


def _sampled(leaves: Sequence[Leaf], k: jax.Array, bracket: _Bracket) -> _Bracket:
    """Narrows the brackets of large pools by what a strided sample shows, verified by counting."""
    pools = k.shape[0]
    sizes = [sum(leaf.scores.size for leaf in leaves if leaf.pool == p) for p in range(pools)]
    if min(sizes) < _SAMPLED_FROM:
        return bracket
    strides = [max(1, size // _SAMPLE) for size in sizes]
    top = bracket.high
    # Each pool is searched for two ranks, so it stands twice.
    double = lambda x: jnp.concatenate([x, x])

    def count(points: jax.Array) -> jax.Array:
        both = jnp.concatenate([points[:pools], points[pools:]], axis=1)
        counts = _sum_by_pool(leaves, both, pools, strides)
        return jnp.concatenate(jnp.split(counts, 2, axis=1))

    looked_at = _sum_by_pool(leaves, top[:, None], pools, strides)[:, 0]
    seen = _as_float(looked_at)
    rank = _as_float(k) * (seen / jnp.asarray(sizes, jnp.float32))
    # Four standard deviations of a sampled quantile, which are at most sqrt(seen) / 2 each.
    margin = 2 * jnp.sqrt(seen) + 2
    ranks = jnp.concatenate([rank - margin, rank + margin])
    targets = _count.one_limb(jnp.clip(ranks, 0, 2.0**31).astype(jnp.uint32))
    found = _narrow(count, targets, jax.tree.map(double, bracket)).low
    low, high = found[:pools], jnp.maximum(found[pools:], found[:pools])
    points = jnp.stack([low, jnp.where(high < top, high + 1, high)], axis=1)
    counts = _sum_by_pool(leaves, points, pools)
    return _keep_bracket(bracket, points, counts, k, jnp.ones((pools,), bool))


def _as_float(limbs: jax.Array) -> jax.Array:
    return limbs[..., 0].astype(jnp.float32) * 2.0**32 + limbs[..., 1].astype(jnp.float32)


def _sum_by_pool(
    leaves: Sequence[Leaf], points: jax.Array, pools: int, strides: Sequence[int] | None = None
) -> jax.Array:
    """Counts the keys of each pool below its points ``[pools, points]``, as limbs."""
    pool_of = np.asarray([leaf.pool for leaf in leaves])
    return _count.sum_segments(_count_each(leaves, points, strides), pool_of, pools)


def _count_each(
    leaves: Sequence[Leaf], points: jax.Array, strides: Sequence[int] | None = None
) -> jax.Array:
    """Counts the keys of each leaf below the points of its pool, as limbs ``[leaves, points, 2]``."""
    digits = [
        _digits_below(
            leaf.scores,
            leaf.state,
            points[leaf.pool].astype(_keys.key_dtype(leaf.dtype)),
            dtype=leaf.dtype,
            stride=1 if strides is None else strides[leaf.pool],
        )
        for leaf in leaves
    ]
    return _count.from_digits(jnp.stack(digits))


def _leaf_keys(scores: jax.Array, state: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    return _keys.sort_keys(_keys.widen(scores, dtype), state)


# Compiled functions of their own, so that leaves of one shape are traced once.
@partial(jax.jit, static_argnames=("dtype", "stride"))
def _digits_below(
    scores: jax.Array,
    state: jax.Array | None,
    points: jax.Array,
    *,
    dtype: jnp.dtype,
    stride: int = 1,
) -> jax.Array:
    """Counts the keys of a leaf below each point, as digits ``[points, 4]``."""

    def local(offsets: Sequence[jax.Array], *args: jax.Array) -> jax.Array:
        del offsets  # counting needs no position
        # A pass must not begin before its points are known: XLA would move the conversion to keys
        # out of the search and hold all keys in memory.
        *arrays, points = jax.lax.optimization_barrier(args)
        if stride > 1:
            arrays = [x.reshape(-1)[::stride] for x in arrays]
        keys = _leaf_keys(arrays[0], arrays[1] if len(arrays) > 1 else None, dtype)
        return _count_true([keys < points[j] for j in range(points.shape[0])])

    arrays = [scores] if state is None else [scores, state]
    return sum_over_shards(local, arrays, [points], 2)


def _count_true(flags: list[jax.Array]) -> jax.Array:
    """Counts the True of several arrays of one shape in one pass, as digits ``[arrays, 4]``."""
    rows, _ = _split(flags[0].shape)
    ones = [flag.astype(jnp.uint32) for flag in flags]
    # One reduction of several operands; a single one XLA's CPU backend does not fuse.
    if len(ones) == 1:
        ones = [*ones, jnp.zeros_like(ones[0])]
    zero = jnp.uint32(0)
    sums = jax.lax.reduce(
        ones,
        [zero] * len(ones),
        lambda a, b: [x + y for x, y in zip(a, b, strict=True)],
        tuple(range(rows, flags[0].ndim)),
    )
    each = [_count.to_digits(s).reshape(-1, 4) for s in sums[: len(flags)]]
    return jnp.stack([_count.sum_digits(digits) for digits in each])


def _split(shape: Sequence[int]) -> tuple[int, int]:
    """How many leading axes are rows, and how many entries a row of the others has.

    A row has fewer than 2**32 entries, so that counts and positions in it are uint32. Nearly every
    leaf is one row.
    """
    for rows in range(len(shape) + 1):
        row = math.prod(shape[rows:])
        if row < 1 << 32:
            return rows, row
    raise AssertionError(shape)


def _before(
    shape: Sequence[int],
    row: jax.Array,
    column: jax.Array,
    *,
    part: Sequence[int] | None = None,
    offsets: Sequence[jax.Array | int] | None = None,
) -> jax.Array:
    """Whether each entry of an array, or of a part of it, comes before a position in C order."""
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

    rows, _ = _split(shape)
    before = index(rows, len(shape)) < column
    if rows:
        own = index(0, rows)
        before = (own < row) | ((own == row) & before)
    return before


@partial(jax.jit, static_argnames=("dtype",))
def _position(
    scores: jax.Array,
    state: jax.Array | None,
    key: jax.Array,
    take: jax.Array,
    first: jax.Array,
    last: jax.Array,
    *,
    dtype: jnp.dtype,
) -> jax.Array:
    """Finds the position ``(row, column)`` before which ``take`` entries equal a key.

    It is searched between ``first`` and ``last`` (rows of a huge leaf, else columns).
    """
    rows, row_size = _split(scores.shape)
    zero = jnp.zeros((1,), jnp.uint32)

    def local(offsets: Sequence[Any], *args: jax.Array) -> jax.Array:
        *arrays, key, row, column, zero = jax.lax.optimization_barrier(args)
        keys = _leaf_keys(arrays[0], arrays[1] if len(arrays) > 1 else None, dtype)
        shape = scores.shape
        if not rows and not any(isinstance(offset, jax.Array) for offset in offsets):
            keys, shape, offsets = keys.reshape(-1), (keys.size,), [0]  # one index, if whole
        # Adding the zero ties the positions to this pass: XLA would hold them in memory, too.
        begin = [jnp.uint32(offset) + zero[0] for offset in offsets]
        flags = [
            (keys == key[0]) & _before(shape, r, c, part=keys.shape, offsets=begin)
            for r, c in zip(row, column, strict=True)
        ]
        return _count_true(flags)

    def count(row: jax.Array, column: jax.Array) -> jax.Array:
        arrays = [scores] if state is None else [scores, state]
        return sum_over_shards(local, arrays, [key[None], row, column, zero], 2)

    row, high = jnp.uint32(0), last
    if rows:  # a huge leaf: first the row that the position is in
        bracket = _Bracket(first[None], last[None], jnp.zeros((1, 2), jnp.uint32))
        count_rows = lambda r: _count.from_digits(count(r[0], jnp.zeros_like(r[0])))[None]
        found = _narrow(count_rows, take[None], bracket)
        row, take = found.low[0], _count.subtract(take, found.below[0])
        first, high = jnp.uint32(0), jnp.where(row < last, jnp.uint32(row_size), jnp.uint32(0))

    # In one row counts fit one limb, and there is a position with just `take` before it.
    def step(bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        stride = jnp.maximum((high - low) // (_TIE_POINTS + 1), 1)
        points = jnp.minimum(low + stride * jnp.arange(1, _TIE_POINTS + 1, dtype=jnp.uint32), high)
        digits = count(jnp.broadcast_to(row, points.shape), points)
        fits = (digits[:, 0] | (digits[:, 1] << 16)) <= take[1]
        low = jnp.max(jnp.where(fits, points, low))
        return low, jnp.min(jnp.where(fits, high, points - 1))

    column, _ = jax.lax.while_loop(lambda b: b[0] < b[1], step, (first, high))
    return jnp.stack([row, column])


def _materialise(x):
    return jnp.max(jnp.stack([x, jnp.zeros_like(x)]), axis=0)


def _positions(shape: Sequence[int]) -> int:
    """How many rows, or, of a leaf of one row, how many columns there are."""
    rows, row_size = _split(shape)
    return math.prod(shape[:rows]) if rows else row_size


def _wide(leaves: Sequence[Leaf]) -> jnp.dtype:
    """The unsigned dtype that holds the keys of all leaves."""
    return jnp.dtype(jnp.uint64 if any(leaf.dtype.itemsize == 8 for leaf in leaves) else jnp.uint32)
