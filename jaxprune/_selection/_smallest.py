"""Which weights go: the k smallest scores of a pool of leaves, found by counting.

The threshold of a pool is the largest key t with at most k keys below it. It is bracketed and the
bracket narrowed: each pass reads the scores once and counts how many lie below each of a few points
inside the bracket. Nothing is sorted, concatenated, gathered or copied; a pass only compares and
counts, on each device what it holds. Large pools are first searched in a strided sample, which
costs little and leaves a narrow bracket; the bracket is verified by exact counts, so the sample
decides speed and never the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._selection import _bracket, _passes, _rows, _ties, limbs, ordering
from jaxprune._selection._shards import vary_as

# Pools are sampled whose leaves have this many entries on average: of smaller ones the passes that
# are saved cost less than those over the sample. About so many entries of a pool are looked at.
_SAMPLED_FROM, _SAMPLE = 1 << 22, 1 << 18


class Selection(NamedTuple):
    """What `smallest` found.

    Attributes:
      removed: one bool array a leaf, True = among the k smallest of its pool.
      counts: uint32 ``[leaves and parts, limbs]``, how many entries of each that are.
      nan: bool ``[leaves and parts]``, whether each holds a NaN that its state does not hide.
    """

    removed: list[jax.Array]
    counts: jax.Array
    nan: jax.Array


def smallest(leaves: _passes.Leaves, k: jax.Array) -> Selection:
    """Marks the ``k`` smallest entries of each pool of leaves.

    Among entries equal to the k-th, those of lowest index (order of ``leaves``, then C order) are
    marked first: how many are missing is counted, and the position up to which they go is found by
    counting as well.

    Args:
      leaves: the leaves of all pools; each pool has at least one.
      k: uint32 ``[pools, limbs]``, how many entries of each pool to mark.

    Returns:
      The marks and their counts.
    """
    pools, each = k.shape[0], leaves.each
    top = np.zeros((pools,), wide_dtype(each))
    for leaf in each:
        top[leaf.pool] = np.iinfo(ordering.key_dtype(leaf.dtype)).max
    for leaf in each:
        k = vary_as(k, leaf.scores)
    nothing = k & 0  # zeros of that type, for the search to begin with
    low = nothing[:, 0].astype(top.dtype)
    bracket = _bracket.Bracket(low, jnp.asarray(top) | low, nothing)
    bracket = _sampled(leaves, k, bracket)
    found, counts = _counted(leaves, k, bracket, jnp.asarray(top))
    threshold, pool_of = found.low, leaves.pools
    below, upto = counts[:, 0], counts[:, 1]
    sizes = limbs.fit(limbs.stack_limbs(leaves.sizes), each[0].wide)
    nan = limbs.less(counts[:, 2], jnp.asarray(sizes))
    tied = limbs.subtract(jnp.where((threshold == top)[pool_of][:, None], sizes, upto), below)
    missing = limbs.subtract(k, limbs.sum_segments(below, pool_of, pools))[pool_of]
    before = limbs.sum_before(tied, pool_of)  # equal entries of the pool in earlier leaves
    take = limbs.minimum(limbs.subtract(limbs.maximum(missing, before), before), tied)
    # A bracket is never upside down, but the compiler does not know.
    zero = jnp.any(found.low > found.high).astype(jnp.uint32)
    removed = _marks(leaves, threshold, take, tied, zero)
    return Selection(removed, limbs.add(below, take), nan)


def _counted(
    leaves: _passes.Leaves, k: jax.Array, bracket: _bracket.Bracket, top: jax.Array
) -> tuple[_bracket.Bracket, jax.Array]:
    """Narrows the brackets down to the thresholds, and counts each leaf at what is known then.

    Returns:
      The brackets, and how many keys of each leaf are less than the threshold, than the key that
      follows it, and than that of a NaN, ``[leaves, 3, limbs]``.
    """
    pool_of, number = leaves.pools, _bracket.points_a_pass()
    nan_key = np.zeros(top.shape, top.dtype)
    for leaf in leaves.each:
        nan_key[leaf.pool] = ordering.nan_key(leaf.dtype)

    def last(threshold: jax.Array) -> jax.Array:
        following = jnp.where(threshold == top, threshold, threshold + 1)
        points = [threshold, following, jnp.asarray(nan_key)]
        return jnp.stack([*points, *points[-1:] * (number - len(points))], axis=1)

    # The last pass is a turn of the search: code of its own would cost a kernel more a leaf.
    def turn(state: tuple[Any, jax.Array, jax.Array]) -> tuple[Any, jax.Array, jax.Array]:
        b, _, _ = state
        open_ = _bracket.unfinished(b, k)
        searching = jnp.any(open_)
        points = jnp.where(searching, _bracket.inside(b), last(b.low))
        counts = _passes.count_each(leaves, points)
        sums = limbs.sum_segments(counts, pool_of, k.shape[0])
        return _bracket.keep(b, points, sums, k, open_), counts, searching

    none = jnp.repeat((k & 0)[pool_of][:, None], number, axis=1)
    state = (bracket, none, jnp.any(none == 0))
    found, counts, _ = jax.lax.while_loop(lambda state: state[2], turn, state)
    return found, counts[:, :3]


def _marks(
    leaves: _passes.Leaves, threshold: jax.Array, take: jax.Array, tied: jax.Array, zero: jax.Array
) -> list[jax.Array]:
    """Marks the entries of each leaf below its pool's threshold, and the first of those equal."""
    marks: dict[int, jax.Array] = {}
    for block in leaves.rows:
        place = leaves.places(block.members)
        keys, some = threshold[leaves.pools[place]], take[place][:, -1]
        marks.update(zip(block.members, _rows.lowest(block, keys, some, zero), strict=True))
    if leaves.alone:
        alone = [leaves.each[i] for i in leaves.alone]
        place = leaves.places(leaves.alone)
        own = _passes.points_of(leaves, threshold)
        keys = [
            own[i].astype(ordering.key_dtype(leaf.dtype))
            for i, leaf in zip(leaves.alone, alone, strict=True)
        ]
        ends = _ties.positions(alone, keys, take[place], tied[place])
        for i, leaf, key, end in zip(leaves.alone, alone, keys, ends, strict=True):
            marks[i] = _ties.marked(leaf, key, end)
    return [marks[i] for i in range(len(leaves.each))]


def _sampled(leaves: _passes.Leaves, k: jax.Array, bracket: _bracket.Bracket) -> _bracket.Bracket:
    """Narrows the brackets of large pools by what a strided sample shows, verified by counting."""
    pools, each = k.shape[0], leaves.sizes
    sizes = [0] * pools
    for pool, size in zip(leaves.pools.tolist(), each, strict=True):
        sizes[pool] += size
    if sum(sizes) // len(each) < _SAMPLED_FROM or min(sizes) < _SAMPLED_FROM:
        return bracket
    strides = [max(1, size // _SAMPLE) for size in sizes]
    top = bracket.high

    def double(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x, x])  # each pool is searched for two ranks

    def count(points: jax.Array) -> jax.Array:
        both = jnp.concatenate([points[:pools], points[pools:]], axis=1)
        counts = _passes.sum_by_pool(leaves, both, pools, strides)
        return jnp.concatenate(jnp.split(counts, 2, axis=1))

    looked_at = _passes.sum_by_pool(leaves, top[:, None], pools, strides)[:, 0]
    seen = _as_float(looked_at)
    rank = _as_float(k) * (seen / jnp.asarray(sizes, jnp.float32))
    # Four standard deviations of a sampled quantile, which are at most sqrt(seen) / 2 each.
    margin = 2 * jnp.sqrt(seen) + 2
    ranks = jnp.concatenate([rank - margin, rank + margin])
    targets = limbs.one_limb(jnp.clip(ranks, 0, 2.0**31).astype(jnp.uint32))
    targets = limbs.fit(targets, k.shape[-1] == 2)
    found = _bracket.narrow(count, targets, jax.tree.map(double, bracket)).low
    low, high = found[:pools], jnp.maximum(found[pools:], found[:pools])
    points = jnp.stack([low, jnp.where(high < top, high + 1, high)], axis=1)
    counts = _passes.sum_by_pool(leaves, points, pools)
    return _bracket.keep(bracket, points, counts, k, jnp.ones((pools,), bool))


def _as_float(counts: jax.Array) -> jax.Array:
    high, low = jnp.split(limbs.full(counts).astype(jnp.float32), 2, axis=-1)
    return (high * 2.0**32 + low)[..., 0]


def wide_dtype(leaves: Sequence[_passes.Leaf]) -> jnp.dtype:
    """The unsigned dtype that holds the keys of all leaves."""
    return jnp.dtype(jnp.uint64 if any(leaf.dtype.itemsize == 8 for leaf in leaves) else jnp.uint32)
