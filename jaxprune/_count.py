"""How many weights go: exact integers on the host, two 32-bit limbs in compiled code.

Integers, because float32 cannot hold 25,600,000 * 0.9.
"""

from __future__ import annotations

import numbers
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._selection import limbs

Count: TypeAlias = Any  # a Python integer, or its uint32 [2] limbs (see `limbs`)


def is_concrete(sparsity: Any) -> bool:
    """Whether the sparsity is known now, so that its count is taken on the host."""
    return not _tree.is_traced(sparsity)


def check_sparsity(sparsity: Any) -> float:
    """Returns a concrete sparsity as a Python float.

    Raises:
      TypeError: if it is not a number.
      ValueError: if it lies outside [0, 1).
    """
    is_scalar = hasattr(sparsity, "dtype") and np.shape(sparsity) == ()
    if isinstance(sparsity, bool) or not (isinstance(sparsity, numbers.Real) or is_scalar):
        raise TypeError(f"sparsity is a number, the fraction removed in [0, 1); got {sparsity!r}.")
    value = float(sparsity)
    if not 0.0 <= value < 1.0:
        hint = f" For {value:g} % pass {value / 100:g}." if 1 < value < 100 else ""
        if value >= 1 and value == int(value):
            hint += f" For {value:g} of n weights pass {value:g} / n, which is exact."
        raise ValueError(f"sparsity is the fraction removed, in [0, 1); got {value}.{hint}")
    return value


def count(sparsity: Any, n: int) -> Count:
    """Returns ``round(sparsity * n)``, half to even: how many of ``n`` weights go.

    A concrete sparsity is counted in Python integers. A traced one means its exact float32
    value; its product with ``n`` is formed exactly, in integer limbs.

    Args:
      sparsity: fraction removed, in [0, 1); Python number or traced scalar.
      n: the number of weights, a Python integer below 2**63.

    Returns:
      A Python integer, or uint32 ``[2]`` limbs for a traced sparsity.

    Raises:
      TypeError: if a concrete sparsity is not a number.
      ValueError: if a concrete sparsity lies outside [0, 1).

    Example:
      >>> count(0.9, 25_502_912)
      22952621
      >>> count(0.5, 5), count(0.5, 7)
      (2, 4)
    """
    if np.shape(sparsity) != ():
        raise TypeError(f"sparsity is one number; got an array of shape {np.shape(sparsity)}.")
    if is_concrete(sparsity):
        return round(check_sparsity(sparsity) * n)
    return _traced_count(sparsity, n)


def _traced_count(sparsity: jax.Array, n: int) -> jax.Array:
    # sparsity = m * 2**-e with a 24-bit integer m, so round(sparsity * n) = round(m * n / 2**e):
    # a long multiplication in 16-bit digits (each held in a uint32), a shift, and a rounding.
    # Reading the bits, not the value, keeps denormals that XLA's CPU backend flushes.
    bits = jax.lax.bitcast_convert_type(jnp.asarray(sparsity).astype(jnp.float32), jnp.uint32)
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    m = jnp.where(exponent == 0, fraction, fraction | (1 << 23))
    e = jnp.where(exponent == 0, 149, 150 - exponent.astype(jnp.int32))

    digits_m = [m & 0xFFFF, m >> 16]
    digits_n = [(n >> (16 * i)) & 0xFFFF for i in range(4)]
    length = 16  # six digits of product, then zeros for the largest shift (149 bits)
    product = [jnp.zeros((), jnp.uint32) for _ in range(length)]
    for i, x in enumerate(digits_m):
        for j, y in enumerate(digits_n):
            partial = x * jnp.uint32(y)
            product[i + j] += partial & 0xFFFF
            product[i + j + 1] += partial >> 16
    carry = jnp.zeros((), jnp.uint32)
    for i in range(length):
        product[i], carry = (product[i] + carry) & 0xFFFF, (product[i] + carry) >> 16
    digits = jnp.stack(product)

    # The sparsity is below 1, so e >= 24 and the quotient has at most four digits.
    skip, rest = e // 16, (e % 16).astype(jnp.uint32)
    window = jax.lax.dynamic_slice(jnp.pad(digits, (0, 8)), (skip,), (5,))
    quotient = ((window[:-1] >> rest) | (window[1:] << (16 - rest))) & 0xFFFF
    low_bits = jnp.clip(e - 1 - 16 * jnp.arange(length), 0, 16).astype(jnp.uint32)
    sticky = jnp.any(digits & ((jnp.uint32(1) << low_bits) - 1) != 0)
    half_digit, half_bit = (e - 1) // 16, ((e - 1) % 16).astype(jnp.uint32)
    half = (jax.lax.dynamic_index_in_dim(digits, half_digit, keepdims=False) >> half_bit) & 1 == 1
    up = half & (sticky | (quotient[0] & 1 == 1))
    taken = jnp.stack([quotient[2] | (quotient[3] << 16), quotient[0] | (quotient[1] << 16)])
    taken = limbs.add(taken, limbs.one_limb(up.astype(jnp.uint32)))

    # Outside [0, 1) compiled code cannot raise: nothing goes at NaN or below 0, all goes from 1.
    negative_or_nan = (bits >> 31 == 1) | (bits > 0x7F800000)
    taken = jnp.where(exponent >= 127, jnp.asarray(limbs.to_limbs(n)), taken)
    return jnp.where(negative_or_nan, jnp.zeros_like(taken), taken)
