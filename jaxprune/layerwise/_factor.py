"""Cholesky factors of matrices that may be singular: more is added until one comes out."""

from __future__ import annotations

import jax
import jax.numpy as jnp

TRIES = 8


def factor(matrix: jax.Array, damping: float) -> tuple[jax.Array, jax.Array]:
    """Cholesky factor of ``matrix + damping * mean(diag(matrix)) * I``.

    Where there is none, ten times the damping is tried, and so on.

    Args:
      matrix: symmetric ``[..., n, n]``.
      damping: relative to the mean of the diagonal.

    Returns:
      The lower factor, and the damping that was added, of all the same; NaN if `TRIES` were not
      enough.
    """
    size = matrix.shape[-1]
    mean = jnp.trace(matrix, axis1=-2, axis2=-1) / size
    one = jnp.eye(size, dtype=matrix.dtype)

    def attempt(added: jax.Array) -> jax.Array:
        shift = (added * mean)[..., None, None] * jnp.broadcast_to(one, matrix.shape)
        return jnp.linalg.cholesky(matrix + shift, symmetrize_input=False)

    def fails(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return ~jnp.all(jnp.isfinite(state[0]))

    def again(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, added, tries = state
        # Of a damping of 0 ten times is 0.
        added = jnp.maximum(10 * added, jnp.finfo(matrix.dtype).eps)
        return attempt(added), added, tries + 1

    # Begun with a failure, so that the program holds one factorisation.
    start = (
        jnp.full_like(matrix, jnp.nan),
        jnp.asarray(damping / 10, matrix.dtype),
        jnp.zeros((), jnp.int32),
    )
    if not damping:
        start = (attempt(start[1]), *start[1:])
    found, added, _ = jax.lax.while_loop(lambda s: fails(s) & (s[2] < TRIES), again, start)
    return found, jnp.where(jnp.all(jnp.isfinite(found)), added, jnp.full_like(added, jnp.nan))
