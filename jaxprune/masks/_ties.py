"""Which of several equal entries go: those before a position, found by counting."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.masks import _bracket, _limbs
from jaxprune.masks._passes import digits_true, leaf_keys, split_rows
from jaxprune.masks._shards import sum_over_shards

_POINTS = 3


@partial(jax.jit, static_argnames=("dtype", "wide"))
def position(
    arrays: list[jax.Array],
    key: jax.Array,
    take: jax.Array,
    first: jax.Array,
    last: jax.Array,
    *,
    dtype: jnp.dtype,
    wide: bool,
) -> jax.Array:
    """Finds the position ``(row, column)`` before which ``take`` entries equal a key.

    Args:
      arrays: the arrays of the leaf.
      key: the key, a scalar.
      take: how many entries, ``[limbs]``.
      first: where the search begins: a column, or of a leaf of 2**32 entries and more a row.
      last: where it ends. If it is not after ``first``, the position is ``first``.
      dtype: the floating dtype in which the scores of the pool are compared.
      wide: whether counts have two limbs.

    Returns:
      uint32 ``[2]``.
    """
    shape = arrays[0].shape
    rows, row_size = split_rows(shape)
    nothing = take & 0  # zeros of the type of the data, as in the search for the threshold
    zero = nothing[:1]

    def local(offsets: Sequence[Any], *args: jax.Array) -> jax.Array:
        *parts, key, row, column, zero = jax.lax.optimization_barrier(args)
        keys, full = leaf_keys(parts, dtype), shape
        if not rows and not any(isinstance(offset, jax.Array) for offset in offsets):
            keys, full, offsets = keys.reshape(-1), (keys.size,), [0]  # one index, if whole
        # Adding the zero ties the positions to this pass: XLA would hold them in memory, too.
        begin = [jnp.uint32(offset) + zero[0] for offset in offsets]
        place = {"part": keys.shape, "offsets": begin}
        flags = [
            (keys == key[0]) & before(full, r, c, **place) for r, c in zip(row, column, strict=True)
        ]
        return digits_true(flags, wide=wide)

    def count(row: jax.Array, column: jax.Array) -> jax.Array:
        """Counts the equal entries before each position, ``[positions, limbs]``."""
        return _limbs.from_digits(sum_over_shards(local, arrays, [key[None], row, column, zero], 2))

    row, high = zero[0], last
    if rows:  # a huge leaf: first the row that the position is in
        bracket = _bracket.Bracket(first[None], last[None], nothing[None])

        def count_rows(points: jax.Array) -> jax.Array:
            return count(points[0], jnp.zeros_like(points[0]))[None]

        found = _bracket.narrow(count_rows, take[None], bracket)
        row = found.low[0]
        first, high = zero[0], jnp.where(row < last, jnp.uint32(row_size), jnp.uint32(0))

    def step(bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        stride = jnp.maximum((high - low) // (_POINTS + 1), 1)
        points = jnp.minimum(low + stride * jnp.arange(1, _POINTS + 1, dtype=jnp.uint32), high)
        fits = ~_limbs.less(take[None], count(jnp.broadcast_to(row, points.shape), points))
        low = jnp.max(jnp.where(fits, points, low))
        return low, jnp.min(jnp.where(fits, high, points - 1))

    column, _ = jax.lax.while_loop(lambda b: b[0] < b[1], step, (first, high))
    return jnp.stack([row, column])


def before(
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

    rows, _ = split_rows(shape)
    before = index(rows, len(shape)) < column
    if rows:
        own = index(0, rows)
        before = (own < row) | ((own == row) & before)
    return before
