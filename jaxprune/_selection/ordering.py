"""Scores as unsigned integers of the same order."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree

_UNSIGNED = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}

# What a leaf's `state` may say of an entry. A mask `within` is a state too: False is GONE and True
# CANDIDATE.
GONE, FORCED, CANDIDATE, IMMUNE = 0, 1, 2, 3


def sort_keys(scores: jax.Array, state: jax.Array | None = None) -> jax.Array:
    """Maps floating scores to unsigned integers that compare in the same order.

    -0.0 equals +0.0, a NaN of either sign is larger than infinity. No score maps to 0 (already
    removed), 1 (must be removed) or the largest integer (must stay); those are for the state.
    Integers, because XLA's CPU backend flushes denormals, so that float comparisons would call
    1e-40 and 0 equal there and unequal on a GPU.

    Args:
      scores: floating array of 16, 32 or 64 bits.
      state: a mask (False = already removed), or uint8 codes, of the same shape; `None` if every
        entry is a candidate.

    Returns:
      An array of the same shape, of the unsigned dtype of the same width.
    """
    width = scores.dtype.itemsize
    unsigned = _UNSIGNED[width]
    sign = unsigned(1 << (8 * width - 1))
    infinity = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, scores.dtype), unsigned)
    bits = jax.lax.bitcast_convert_type(scores, unsigned)
    size = bits & ~sign  # the bits of the absolute value
    key = jnp.where(bits & sign != 0, ~bits, bits | sign)
    key = jnp.where(size == 0, sign, key)
    key = jnp.where(size > infinity, (infinity | sign) + unsigned(1), key)
    if state is None:
        return key
    if state.dtype == jnp.bool_:
        return jnp.where(state, key, unsigned(GONE))
    # GONE and FORCED are their own keys.
    key = jnp.where(state == CANDIDATE, key, state.astype(unsigned))
    return jnp.where(state == IMMUNE, ~unsigned(0), key)


def of_leaf(arrays: Sequence[jax.Array], dtype: jnp.dtype) -> jax.Array:
    """The keys of scores, compared in a floating dtype, and of the state beside them, if any."""
    return sort_keys(widen(arrays[0], dtype), *arrays[1:])


def sort_keys_on_host(scores: np.ndarray) -> np.ndarray:
    """As `sort_keys`, of a NumPy array without a state."""
    width = scores.dtype.itemsize
    unsigned = np.dtype(f"u{width}").type
    sign = unsigned(1 << (8 * width - 1))
    infinity = np.asarray(np.inf, scores.dtype).view(unsigned)
    bits = np.ascontiguousarray(scores).view(unsigned).reshape(scores.shape)
    size = bits & ~sign
    key = np.where(bits & sign != 0, ~bits, bits | sign)
    key[size == 0] = sign
    key[size > infinity] = (infinity | sign) + unsigned(1)
    return key


def nan_key(dtype: jnp.dtype) -> int:
    """The key of a NaN of this floating dtype."""
    width = 8 * dtype.itemsize
    mantissa = jnp.finfo(dtype).nmant
    return (1 << width) - (1 << mantissa) + 1


def common_dtype(dtypes: list[jnp.dtype]) -> jnp.dtype:
    """The dtype in which scores of these dtypes are compared exactly."""
    # 8-bit floats disagree on which bits mean infinity, so they are compared as float32.
    same = len(set(dtypes)) == 1 and dtypes[0].itemsize > 1
    return dtypes[0] if same else jnp.dtype(_tree.wide_dtype(*dtypes))


def key_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The unsigned dtype of the keys of scores of this floating dtype."""
    return jnp.dtype(_UNSIGNED[dtype.itemsize])


def widen(scores: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Converts to a wider floating dtype without flushing denormals."""
    if scores.dtype == dtype:
        return scores
    if scores.dtype == jnp.bfloat16:
        # bfloat16 is the upper half of float32; as a shift this keeps denormals.
        bits = jax.lax.bitcast_convert_type(scores, jnp.uint16).astype(jnp.uint32) << 16
        return widen(jax.lax.bitcast_convert_type(bits, jnp.float32), dtype)
    if scores.dtype == jnp.float32:  # to float64
        bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
        size = (bits & 0x7FFFFFFF).astype(dtype) * jnp.asarray(2.0**-149, dtype)
        denormal = jnp.where(bits >> 31 == 1, -size, size)
        return jnp.where(bits & 0x7F800000 == 0, denormal, scores.astype(dtype))
    return scores.astype(dtype)
