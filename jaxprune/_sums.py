"""Counting the True entries of arrays, in the one form that XLA fuses on every backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# On a CPU arrays from this size on are summed in two steps, over rows of at most so many entries.
_LARGE, _ROW = 1 << 19, 1 << 12


def count_true(flags: Sequence[jax.Array], axes: tuple[int, ...]) -> list[jax.Array]:
    """Counts the True entries of several bool arrays of one shape, in one pass.

    One reduction of several operands: XLA fuses what makes the flags into it. Several reductions of
    one operand each take as many passes, and on the CPU backend each of them first writes the
    operand to memory, 4 bytes an entry, and takes ten times as long.

    Args:
      flags: the arrays.
      axes: the axes to sum over, together below 2**32 entries.

    Returns:
      One uint32 array each.
    """
    return _sum([flag.astype(jnp.uint32) for flag in flags], axes)


def _sum(numbers: list[jax.Array], axes: tuple[int, ...]) -> list[jax.Array]:
    alone = len(numbers) == 1
    if alone:
        numbers = [*numbers, jnp.zeros_like(numbers[0])]
    zeros = [jnp.uint32(0)] * len(numbers)
    sums = jax.lax.reduce(
        numbers, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], axes
    )
    # XLA drops an operand that nobody reads, and with it the form that is fused.
    return list(jax.lax.optimization_barrier(sums))[:1] if alone else list(sums)


def count_all(flags: Sequence[jax.Array]) -> list[jax.Array]:
    """Counts all True entries of several bool arrays of one shape, in one pass.

    XLA's CPU backend gives a sum to a single number to one thread, and one thread does not keep the
    memory busy. So large arrays are cut into rows there, which it spreads over all threads.

    Args:
      flags: the arrays, below 2**32 entries each.

    Returns:
      One uint32 scalar each.
    """
    size, every = flags[0].size, tuple(range(flags[0].ndim))
    row = math.gcd(size, _ROW)
    if jax.default_backend() != "cpu" or size < _LARGE or row < 1 << 8:
        return count_true(flags, every)
    return _sum(count_true([flag.reshape(-1, row) for flag in flags], (1,)), (0,))
