"""A small array taken apart into its rows, so that compiled kernels are shared between leaves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Rows of one kernel: a few rows are one kernel, of many rows each takes a few, because with them
# its compilation grows faster than they do.
_FEW, _ROWS = 64, 16


def unstack(x: jax.Array) -> list[jax.Array]:
    """Returns the rows of a small integer array, each as a buffer of its own.

    Indexing would do, but XLA moves the index into every kernel that reads the row, so that the
    kernels of two leaves of one shape differ in a constant and are compiled each for itself: 15 ms
    a leaf. A reduction is not moved. With its own buffer a kernel is the same for all leaves of a
    shape, and XLA's CPU backend compiles it once.

    Args:
      x: ``[n, ...]``, a few numbers.

    Returns:
      n arrays of shape ``[...]``.
    """
    rows: list[jax.Array] = []
    each = _FEW if x.shape[0] <= _FEW else _ROWS
    for start in range(0, x.shape[0], each):
        part = x[start : start + each]
        number = part.shape[0]
        if number == 1:  # of one row XLA makes no reduction
            part = jnp.concatenate([part, jnp.zeros_like(part)])
        index = np.arange(part.shape[0]).reshape((-1,) + (1,) * (part.ndim - 1))
        alone = [jnp.where(index == i, part, jnp.zeros_like(part)) for i in range(part.shape[0])]
        zero = jnp.zeros((), part.dtype)
        rows += jax.lax.reduce(
            alone,
            [zero] * len(alone),
            lambda a, b: [u + v for u, v in zip(a, b, strict=True)],
            (0,),
        )[:number]
    return rows
