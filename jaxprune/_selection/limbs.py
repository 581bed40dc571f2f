"""Exact counts in compiled code: one or two 32-bit limbs.

A count is a uint32 array whose last axis has its limbs: ``(high, low)``, worth
``high * 2**32 + low``, because JAX computes in 32 bits by default and models have more than 2**32
weights; or ``(low,)`` alone where everything counted stays below 2**32, which is known from shapes
and makes programs several times smaller. Every function here takes either.

Sums over shards and leaves go through digits in base 2**16, which can be added without carries: an
all-reduce knows nothing of them. Of a count of one limb the only digit is itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LIMB = 1 << 32


def to_limbs(value: Any) -> Any:
    """Returns a Python integer as uint32 ``[2]``, (high, low); limbs as they are."""
    if isinstance(value, int):
        return np.array(divmod(value, _LIMB), np.uint32)
    return value


def stack_limbs(values: Sequence[int]) -> np.ndarray:
    """Python integers as uint32 ``[n, 2]``."""
    return np.stack([np.array(divmod(value, _LIMB), np.uint32) for value in values])


def from_limbs(limbs: Any) -> int:
    """Returns concrete limbs as a Python integer."""
    high, low = np.asarray(limbs)
    return int(high) * _LIMB + int(low)


def fit(limbs: Any, wide: bool) -> jax.Array:
    """Two limbs as two, or as one if nothing needs the other."""
    return limbs if wide else limbs[..., 1:]


def full(limbs: jax.Array) -> jax.Array:
    """One or two limbs as two."""
    return limbs if limbs.shape[-1] == 2 else one_limb(limbs[..., 0])


def one_limb(x: jax.Array) -> jax.Array:
    """uint32 numbers as counts in two limbs."""
    return jnp.stack([jnp.zeros_like(x), x], axis=-1)


def add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of counts."""
    if a.shape[-1] == 1:
        return a + b
    low = a[..., 1] + b[..., 1]
    carry = (low < a[..., 1]).astype(jnp.uint32)
    return jnp.stack([a[..., 0] + b[..., 0] + carry, low], axis=-1)


def subtract(a: jax.Array, b: jax.Array) -> jax.Array:
    """Difference ``a - b`` of counts, for ``a >= b``."""
    if a.shape[-1] == 1:
        return a - b
    borrow = (a[..., 1] < b[..., 1]).astype(jnp.uint32)
    return jnp.stack([a[..., 0] - b[..., 0] - borrow, a[..., 1] - b[..., 1]], axis=-1)


def less(a: jax.Array, b: jax.Array) -> jax.Array:
    """Whether each count ``a`` is below ``b``; without the axis of the limbs."""
    if a.shape[-1] == 1:
        return (a < b)[..., 0]
    return (a[..., 0] < b[..., 0]) | ((a[..., 0] == b[..., 0]) & (a[..., 1] < b[..., 1]))


def maximum(a: jax.Array, b: jax.Array) -> jax.Array:
    """The larger of two counts."""
    return jnp.where(less(a, b)[..., None], b, a)


def minimum(a: jax.Array, b: jax.Array) -> jax.Array:
    """The smaller of two counts."""
    return jnp.where(less(a, b)[..., None], a, b)


def sum_segments(limbs: jax.Array, segments: np.ndarray, number: int) -> jax.Array:
    """Sums counts ``[n, ..., limbs]`` by their segment, ``[number, ..., limbs]``."""
    return from_digits(jax.ops.segment_sum(to_digits(limbs), segments, number))


def sum_before(limbs: jax.Array, segments: np.ndarray) -> jax.Array:
    """For each count ``[n, limbs]`` the sum of the earlier ones of its segment."""
    earlier = np.arange(len(segments))
    earlier = (earlier[:, None] > earlier[None]) & (segments[:, None] == segments[None])
    digits = jnp.where(earlier[..., None], to_digits(limbs)[None], jnp.uint32(0))
    return from_digits(jnp.sum(digits, axis=1, dtype=jnp.uint32))


def to_digits(limbs: jax.Array) -> jax.Array:
    """Counts as digits in base 2**16, ``[..., 4]``, lowest first; or one limb as it is.

    Up to 2**16 such digit vectors may be added before a digit can overflow.
    """
    if limbs.shape[-1] == 1:
        return limbs
    high, low = limbs[..., 0], limbs[..., 1]
    return jnp.stack([low & 0xFFFF, low >> 16, high & 0xFFFF, high >> 16], axis=-1)


def from_digits(digits: jax.Array) -> jax.Array:
    """The counts of digits, also of digits that have grown past 2**16."""
    if digits.shape[-1] == 1:
        return digits
    d = _carried(digits)
    return jnp.stack([d[..., 2] | (d[..., 3] << 16), d[..., 0] | (d[..., 1] << 16)], axis=-1)


def sum_digits(digits: jax.Array) -> jax.Array:
    """Sums digits ``[n, 4]`` over any number n of them, ``[4]``."""
    while digits.shape[0] > 1:
        few = min(digits.shape[0], 1 << 15)
        padded = jnp.pad(digits, ((0, -digits.shape[0] % few), (0, 0)))
        digits = _carried(jnp.sum(padded.reshape(few, -1, 4), axis=0, dtype=jnp.uint32))
    return digits.reshape(4)


def _carried(digits: jax.Array) -> jax.Array:
    out, carry = [], jnp.zeros_like(digits[..., 0])
    for i in range(4):
        value = digits[..., i] + carry
        out.append(value & 0xFFFF)
        carry = value >> 16
    return jnp.stack(out, axis=-1)
