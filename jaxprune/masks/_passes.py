"""One pass over the scores of a leaf: how many keys lie below each of a few points."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _sums
from jaxprune.masks import _keys, _limbs
from jaxprune.masks._shards import sum_over_shards


class Leaf(NamedTuple):
    """One leaf of a selection.

    Attributes:
      scores: floating array of any shape.
      state: mask or codes of the same shape (see `_keys`), or `None`.
      pool: index of the pool in which the leaf is counted.
      dtype: the floating dtype in which the scores of the pool are compared.
      wide: whether counts need two limbs, because all leaves together have 2**32 entries or more.
    """

    scores: jax.Array
    state: jax.Array | None
    pool: int
    dtype: jnp.dtype
    wide: bool = False

    @property
    def arrays(self) -> list[jax.Array]:
        """Scores and, where there is one, state."""
        return [self.scores] if self.state is None else [self.scores, self.state]


def count_below(leaf: Leaf, points: Sequence[int]) -> jax.Array:
    """Counts the keys of a leaf below each of some fixed keys, ``[points, limbs]``."""
    query = jnp.asarray(np.asarray(points, _keys.key_dtype(leaf.dtype)))
    return _limbs.from_digits(_digits_below(leaf.arrays, query, dtype=leaf.dtype, wide=leaf.wide))


def count_true(flags: jax.Array, *, wide: bool) -> jax.Array:
    """Counts the True of a bool array, ``[limbs]``."""

    def local(offsets: Sequence[Any], flags: jax.Array) -> jax.Array:
        del offsets  # counting needs no position
        return digits_true([flags], wide=wide)

    return _limbs.from_digits(sum_over_shards(local, [flags], [], 2))[0]


def sum_by_pool(
    leaves: Sequence[Leaf], points: jax.Array, pools: int, strides: Sequence[int] | None = None
) -> jax.Array:
    """Counts the keys of each pool below its points, both ``[pools, points, ...]``."""
    pool_of = np.asarray([leaf.pool for leaf in leaves])
    return _limbs.sum_segments(count_each(leaves, points, strides), pool_of, pools)


def count_each(
    leaves: Sequence[Leaf], points: jax.Array, strides: Sequence[int] | None = None
) -> jax.Array:
    """Counts the keys of each leaf below its pool's points, ``[leaves, points, limbs]``."""
    digits = [
        _digits_below(
            leaf.arrays,
            points[leaf.pool].astype(_keys.key_dtype(leaf.dtype)),
            dtype=leaf.dtype,
            wide=leaf.wide,
            stride=1 if strides is None else strides[leaf.pool],
        )
        for leaf in leaves
    ]
    return _limbs.from_digits(jnp.stack(digits))


# Compiled functions of their own, so that leaves of one shape are traced once.
@partial(jax.jit, static_argnames=("dtype", "wide", "stride"))
def _digits_below(
    arrays: list[jax.Array], points: jax.Array, *, dtype: jnp.dtype, wide: bool, stride: int = 1
) -> jax.Array:
    """Counts the keys of a leaf below each point, ``[points, digits]``."""

    def local(offsets: Sequence[Any], *args: jax.Array) -> jax.Array:
        del offsets  # counting needs no position
        # A pass must not begin before its points are known: XLA would move the conversion to keys
        # out of the search and hold all keys in memory.
        *arrays, points = jax.lax.optimization_barrier(args)
        if stride > 1:
            arrays = [x.reshape(-1)[::stride] for x in arrays]
        keys = leaf_keys(arrays, dtype)
        return digits_true([keys < points[j] for j in range(points.shape[0])], wide=wide)

    return sum_over_shards(local, arrays, [points], 2)


def leaf_keys(arrays: Sequence[jax.Array], dtype: jnp.dtype) -> jax.Array:
    """The keys of a leaf's `Leaf.arrays`."""
    return _keys.sort_keys(_keys.widen(arrays[0], dtype), *arrays[1:])


def digits_true(flags: list[jax.Array], *, wide: bool) -> jax.Array:
    """Counts the True of several arrays of one shape in one pass, ``[arrays, digits]``."""
    rows = split_rows(flags[0].shape)[0] if wide else 0
    sums = _sums.count_true(flags, tuple(range(rows, flags[0].ndim)))
    if not wide:
        return jnp.stack(sums)[:, None]
    each = [_limbs.to_digits(_limbs.one_limb(s)).reshape(-1, 4) for s in sums]
    return jnp.stack([_limbs.sum_digits(digits) for digits in each])


def split_rows(shape: Sequence[int]) -> tuple[int, int]:
    """How many leading axes are rows, and how many entries a row of the others has.

    A row has fewer than 2**32 entries, so that counts and positions in it are uint32. Nearly every
    leaf is one row.
    """
    for rows in range(len(shape) + 1):
        row = math.prod(shape[rows:])
        if row < 1 << 32:
            return rows, row
    raise AssertionError(shape)
