"""Problems in units in which every input has norm 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def scaled(
    kernel: jax.Array, gram: jax.Array, damping: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scales inputs to norm 1 and adds to the diagonal, relative to its mean.

    Returns:
      The kernel times the scales, the Gram matrix divided by them, and the scales ``[in, 1]``. A
      dead input has scale 1, and so weights that count for what they are.
    """
    norms = jnp.sqrt(jnp.diagonal(gram))
    dead = norms == 0
    scales = jnp.where(dead, jnp.ones_like(norms), norms)
    gram = gram / scales[:, None] / scales[None, :]
    mean = jnp.trace(gram) / gram.shape[0]
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
    return kernel * norms[:, None], gram + damping * mean * eye, scales[:, None]
