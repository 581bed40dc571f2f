"""How far the outputs of a pruned layer are from those of the dense one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.layerwise import _arrays


def error(kernel: Any, new_kernel: Any, gram: Any, *, name: str = "kernel") -> jax.Array:
    """Relative error of a layer's outputs on the data of a Gram matrix.

    ``tr((W - V)^T G (W - V)) / tr(W^T G W)``, which is ``|XW - XV|^2 / |XW|^2`` for ``G = X^T X``.

    Args:
      kernel: the dense kernel W, ``[in, out]``; stacked kernels ``[..., in, out]`` have one error
        each.
      new_kernel: the pruned kernel V, of the same shape.
      gram: ``[in, in]``, or one each.
      name: what errors call the kernel.

    Returns:
      The error, float32 at least, of shape ``[]`` or ``[...]``; 0 if all outputs are 0 before and
      after.

    Raises:
      ValueError: if shapes do not fit or, outside `jit`, a value is NaN or infinite.
      TypeError: if an array is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> kernel = jnp.array([[1.0], [2.0]])
      >>> float(error(kernel, jnp.array([[0.0], [2.0]]), jnp.diag(jnp.array([4.0, 1.0]))))
      0.5
    """
    kernel, gram = _arrays.checked(kernel, gram, name)
    new_kernel, _ = _arrays.checked(new_kernel, gram, name)
    if kernel.shape != new_kernel.shape:
        raise ValueError(f"{name!r} has shape {kernel.shape}, the new one {new_kernel.shape}.")
    return _arrays.each(_relative, kernel.shape[:-2], kernel, new_kernel, gram)


@jax.jit
def _relative(kernel: jax.Array, new_kernel: jax.Array, gram: jax.Array) -> jax.Array:
    w, v, g = _arrays.widened(kernel, new_kernel, gram)
    lost, whole = jnp.sum(by_output(w - v, g)), jnp.sum(by_output(w, g))
    # A matrix that is not quite positive can give a little less than 0.
    lost = jnp.maximum(lost, jnp.zeros_like(lost))
    return jnp.where(lost == 0, lost, lost / whole)


@partial(jax.named_call, name="layer_error")
def by_output(difference: jax.Array, gram: jax.Array) -> jax.Array:
    """``d^T G d`` of every column d, ``[out]``."""
    product = jnp.matmul(gram, difference, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(difference * product, axis=0)
