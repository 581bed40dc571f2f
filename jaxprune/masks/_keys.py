"""Scores as unsigned integers of the same order."""

import jax
import jax.numpy as jnp

from jaxprune import _tree

_UNSIGNED = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def sort_keys(scores: jax.Array) -> jax.Array:
    """Maps floating scores to unsigned integers that compare in the same order.

    -0.0 equals +0.0, a NaN of either sign is the largest, and no finite or infinite score maps to
    0, which is therefore free to mean "already removed". Integers, because XLA's CPU backend
    flushes denormals, so that float comparisons would call 1e-40 and 0 equal there and unequal
    on a GPU.

    Args:
      scores: floating array of 16, 32 or 64 bits.

    Returns:
      An array of the same shape, of the unsigned dtype of the same width.
    """
    width = scores.dtype.itemsize
    unsigned = _UNSIGNED[width]
    sign = unsigned(1 << (8 * width - 1))
    inf = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, scores.dtype), unsigned)
    bits = jax.lax.bitcast_convert_type(scores, unsigned)
    size = bits & ~sign  # the bits of the absolute value
    key = jnp.where(bits & sign != 0, ~bits, bits | sign)
    key = jnp.where(size == 0, sign, key)
    return jnp.where(size > inf, ~unsigned(0), key)


def common_dtype(dtypes: list[jnp.dtype]) -> jnp.dtype:
    """The dtype in which scores of these dtypes are compared exactly."""
    # 8-bit floats disagree on which bits mean infinity, so they are compared as float32.
    same = len(set(dtypes)) == 1 and dtypes[0].itemsize > 1
    return dtypes[0] if same else jnp.dtype(_tree.wide_dtype(*dtypes))


def widen(scores: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Converts to a wider floating dtype without flushing denormals."""
    if scores.dtype == dtype:
        return scores
    if scores.dtype == jnp.bfloat16 and dtype == jnp.float32:
        # bfloat16 is the upper half of float32; as a shift this keeps denormals.
        bits = jax.lax.bitcast_convert_type(scores, jnp.uint16).astype(jnp.uint32) << 16
        return jax.lax.bitcast_convert_type(bits, jnp.float32)
    return scores.astype(dtype)
