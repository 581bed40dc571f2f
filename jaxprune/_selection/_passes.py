"""One pass over the scores of a leaf: how many keys lie below each of a few points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _sums
from jaxprune._selection import _rows, limbs, ordering
from jaxprune._selection._shards import sum_over_shards
from jaxprune._selection._unstack import unstack


class Leaf(NamedTuple):
    """One leaf of a selection, or several of one shape in one array: its parts.

    Attributes:
      scores: floating array of any shape; of parts, ``[parts, ...]``.
      state: mask or codes of the same shape (see `ordering`), or `None`.
      pool: index of the pool in which the leaf is counted; of parts, one each, ``[parts]``.
      dtype: the floating dtype in which the scores of the pool are compared.
      wide: whether counts need two limbs, because all leaves together have 2**32 entries or more.
      whole: whether the leaf is flat and on one device, so that no other device has a part of it.
    """

    scores: jax.Array
    state: jax.Array | None
    pool: int | np.ndarray
    dtype: jnp.dtype
    wide: bool = False
    whole: bool = False

    @property
    def arrays(self) -> list[jax.Array]:
        """Scores and, where there is one, state."""
        return [self.scores] if self.state is None else [self.scores, self.state]

    @property
    def parts(self) -> int | None:
        """Into how many parts the first axis cuts the array; `None` if it is one leaf."""
        return None if isinstance(self.pool, int) else len(self.pool)

    @property
    def part_shape(self) -> tuple[int, ...]:
        """The shape of the leaf, or of each part."""
        return self.scores.shape if self.parts is None else self.scores.shape[1:]

    @property
    def part_sizes(self) -> list[int]:
        """The number of entries of the leaf, or of each part."""
        return [math.prod(self.part_shape)] * (1 if self.parts is None else self.parts)


def count_true(flags: jax.Array, *, wide: bool) -> jax.Array:
    """Counts the True of a bool array, ``[limbs]``."""

    def local(offsets: Sequence[Any], flags: jax.Array) -> jax.Array:
        del offsets  # counting needs no position
        return digits_true([flags], wide=wide)

    return limbs.from_digits(sum_over_shards(local, [flags], [], 2))[0]


class Leaves(NamedTuple):
    """The leaves of a selection, the small ones laid out together where they may be.

    Attributes:
      each: all leaves.
      rows: the small ones again, laid out as rows.
      alone: the places in ``each`` of those that are not.

    What is found of the leaves has a row for each, and for each part where a leaf has parts.
    """

    each: tuple[Leaf, ...]
    rows: tuple[_rows.Rows, ...]
    alone: tuple[int, ...]

    @property
    def pools(self) -> np.ndarray:
        """The pool of each leaf or part."""
        return np.concatenate([np.atleast_1d(leaf.pool) for leaf in self.each])

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each leaf or part."""
        return [size for leaf in self.each for size in leaf.part_sizes]

    def places(self, members: Sequence[int]) -> np.ndarray:
        """The rows of some leaves in what is found of all."""
        numbers = [len(leaf.part_sizes) for leaf in self.each]
        ends = np.cumsum(numbers)
        own = [np.arange(ends[i] - numbers[i], ends[i]) for i in members]
        return np.concatenate(own) if own else np.zeros(0, int)


def arrange(leaves: Sequence[Leaf], *, together: bool) -> Leaves:
    """Arranges leaves for a selection.

    Args:
      leaves: the leaves.
      together: whether all lie on one device, so that small ones may be laid out together. On
        several that would gather what is spread over them.
    """
    if not together:
        return Leaves(tuple(leaves), (), tuple(range(len(leaves))))
    rows = tuple(_rows.arrange(leaves))
    laid_out = {i for block in rows for i in block.members}
    alone = tuple(i for i in range(len(leaves)) if i not in laid_out)
    each = [leaf if i in laid_out else _flat(leaf) for i, leaf in enumerate(leaves)]
    return Leaves(tuple(each), rows, alone)


def _flat(leaf: Leaf) -> Leaf:
    """A leaf of one axis, so that leaves of one size share kernels, whatever their shapes."""
    if leaf.scores.size >= 1 << 32 or not all(map(_rows.is_whole, leaf.arrays)):
        return leaf
    shape = (-1,) if leaf.parts is None else (leaf.parts, math.prod(leaf.part_shape))
    state = None if leaf.state is None else leaf.state.reshape(shape)
    return leaf._replace(scores=leaf.scores.reshape(shape), state=state, whole=True)


def in_order(leaves: Leaves, alone: Sequence[jax.Array], of_rows: Sequence[jax.Array]) -> jax.Array:
    """Puts what was found of the leaves alone and of those in rows in the order of all leaves."""
    parts = [*alone, *of_rows]
    if all(leaves.each[i].parts is None for i in leaves.alone):
        parts = [jnp.stack(alone), *of_rows] if alone else parts
    else:
        cut = [leaves.each[i].parts is not None for i in leaves.alone]
        parts = [x if c else x[None] for x, c in zip(alone, cut, strict=True)] + parts[len(alone) :]
    members = [*leaves.alone, *(i for block in leaves.rows for i in block.members)]
    whole = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    return whole if members == sorted(members) else whole[np.argsort(leaves.places(members))]


def sum_by_pool(
    leaves: Leaves, points: jax.Array, pools: int, strides: Sequence[int] | None = None
) -> jax.Array:
    """Counts the keys of each pool below its points, both ``[pools, points, ...]``."""
    return limbs.sum_segments(count_each(leaves, points, strides), leaves.pools, pools)


def count_each(
    leaves: Leaves, points: jax.Array, strides: Sequence[int] | None = None
) -> jax.Array:
    """Counts the keys of each leaf below its pool's points, ``[leaves, points, limbs]``.

    With ``strides`` every so many entries are looked at, and none of the leaves in rows.
    """
    alone = []
    own = points_of(leaves, points)
    for i in leaves.alone:
        leaf = leaves.each[i]
        count = partial(
            _digits_below,
            dtype=leaf.dtype,
            wide=leaf.wide,
            whole=leaf.whole,
            stride=1 if strides is None else int(np.min(np.asarray(strides)[leaf.pool])),
        )
        count = count if leaf.parts is None else jax.vmap(count)
        alone.append(count(leaf.arrays, own[i].astype(ordering.key_dtype(leaf.dtype))))
    of_rows = []
    for block in leaves.rows:
        counts = _rows.count_below(block, points, leaves.pools[leaves.places(block.members)])
        if strides is not None:
            counts = jnp.zeros_like(counts)
        of_rows.append(limbs.to_digits(limbs.fit(limbs.one_limb(counts), leaves.each[0].wide)))
    return limbs.from_digits(in_order(leaves, alone, of_rows))


def points_of(leaves: Leaves, of_pools: jax.Array) -> dict[int, jax.Array]:
    """What belongs to the pool of each leaf alone, by its place.

    Args:
      leaves: the leaves.
      of_pools: ``[pools, ...]``.

    Returns:
      Arrays ``[...]``, and ``[parts, ...]`` of a leaf that has parts.
    """
    rows = None
    found = {}
    for i in leaves.alone:
        pool = leaves.each[i].pool
        if isinstance(pool, int):
            rows = unstack(of_pools) if rows is None else rows
            found[i] = rows[pool]
        else:
            found[i] = of_pools[pool]
    return found


# Compiled functions of their own, so that leaves of one shape are traced once.
@partial(jax.jit, static_argnames=("dtype", "wide", "whole", "stride"))
def _digits_below(
    arrays: list[jax.Array],
    points: jax.Array,
    *,
    dtype: jnp.dtype,
    wide: bool,
    whole: bool,
    stride: int = 1,
) -> jax.Array:
    """Counts the keys of a leaf below each point, ``[points, digits]``."""

    def local(offsets: Sequence[Any], *args: jax.Array) -> jax.Array:
        del offsets  # counting needs no position
        # A pass must not begin before its points are known: XLA would move the conversion to keys
        # out of the search and hold all keys in memory.
        *arrays, points = jax.lax.optimization_barrier(args)
        if stride > 1:
            arrays = [x.reshape(-1)[::stride] for x in arrays]
        keys = ordering.of_leaf(arrays, dtype)
        return digits_true([keys < points[j] for j in range(points.shape[0])], wide=wide)

    return local([0], *arrays, points) if whole else sum_over_shards(local, arrays, [points], 2)


def digits_true(flags: list[jax.Array], *, wide: bool) -> jax.Array:
    """Counts the True of several arrays of one shape in one pass, ``[arrays, digits]``."""
    rows = split_rows(flags[0].shape)[0] if wide else 0
    if not wide:
        return jnp.stack(_sums.count_all(flags))[:, None]
    sums = _sums.count_true(flags, tuple(range(rows, flags[0].ndim)))
    each = [limbs.to_digits(limbs.one_limb(s)).reshape(-1, 4) for s in sums]
    return jnp.stack([limbs.sum_digits(digits) for digits in each])


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
