"""Inputs without their mean, which a bias can carry."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.layerwise import _arrays


def centred(gram: Any, mean: Any, number: Any) -> jax.Array:
    """The Gram matrix of the inputs less their mean: ``G - number * mean mean^T``.

    With it every method of `solve` counts only what a bias cannot repair; add `bias_correction` to
    the bias afterwards. Without a bias use the Gram matrix as it is.

    Args:
      gram: ``[in, in]``, the sum of the outer products of all inputs.
      mean: ``[in]``, their mean.
      number: how many there were.

    Returns:
      ``[in, in]``, float32 at least.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [3.0, 2.0]])
      >>> centred(x.T @ x, x.mean(0), 2).tolist()
      [[2.0, 2.0], [2.0, 2.0]]
    """
    g, m = _arrays.widened(jnp.asarray(gram), jnp.asarray(mean))
    return g - jnp.asarray(number, g.dtype) * (m[..., :, None] * m[..., None, :])


def bias_correction(kernel: Any, new_kernel: Any, mean: Any) -> jax.Array:
    """What to add to the bias so that the mean of each output stays: ``mean @ (W - V)``.

    Args:
      kernel: the dense kernel, ``[in, out]``.
      new_kernel: the pruned kernel, ``[in, out]``.
      mean: the mean of the inputs, ``[in]``.

    Returns:
      ``[out]``, float32 at least.

    Example:
      >>> import jax.numpy as jnp
      >>> kernel = jnp.array([[1.0], [2.0]])
      >>> bias_correction(kernel, jnp.array([[0.0], [2.0]]), jnp.array([3.0, 1.0])).tolist()
      [3.0]
    """
    arrays = (jnp.asarray(x) for x in (kernel, new_kernel, mean))
    w, v, m = _arrays.widened(*arrays)
    return jnp.einsum("...i,...io->...o", m, w - v, precision=jax.lax.Precision.HIGHEST)
