"""Kernels and Gram matrices checked, widened and, where they are stacked, taken one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree


def checked(kernel: Any, gram: Any, name: str, *, diagonal: bool = False) -> tuple[Any, Any]:
    """Returns a kernel and its Gram matrix as arrays, or raises if they do not fit.

    Args:
      kernel: ``[..., in, out]``.
      gram: ``[..., in, in]``.
      name: what errors call the kernel.
      diagonal: whether ``[..., in]`` does as well.

    Raises:
      ValueError: if the shapes do not fit or, outside `jit`, a value is NaN or infinite or an
        entry of the diagonal negative.
      TypeError: if one is not floating.
    """
    for what, x in (("kernel", kernel), ("Gram matrix", gram)):
        if not _tree.is_floating(x):
            raise TypeError(
                f"the {what} of {name!r} is a floating array; got "
                f"{getattr(x, 'dtype', type(x).__name__)}."
            )
    *layers, inputs, _ = np.shape(kernel) if np.ndim(kernel) >= 2 else (0, 0)
    square, line = (*layers, inputs, inputs), (*layers, inputs)
    flat = diagonal and np.shape(gram) == line
    if np.ndim(kernel) < 2 or (np.shape(gram) != square and not flat):
        more = f", or its diagonal {line}" if diagonal else ""
        raise ValueError(
            f"{name!r}: a kernel of shape {np.shape(kernel)}, [in, out], needs a Gram matrix of "
            f"shape [in, in]{more}; got {np.shape(gram)}. A kernel of another layout is transposed "
            "or reshaped first."
        )
    _tree.check_finite({name: kernel})
    _tree.check_finite({name: gram}, what="Gram matrix")
    squares = gram if flat else jnp.diagonal(jnp.asarray(gram), axis1=-2, axis2=-1)
    if not _tree.is_traced(squares) and bool(np.any(np.asarray(squares) < 0)):
        raise ValueError(
            f"the Gram matrix of {name!r} has a negative diagonal entry; it is X^T X of the inputs."
        )
    return jnp.asarray(kernel), jnp.asarray(gram)


def check_mask(mask: Any, kernel: Any, name: str) -> None:
    """Raises unless a mask is one of this kernel.

    Raises:
      ValueError: if the shapes differ.
      TypeError: if it is not bool.
    """
    if getattr(mask, "dtype", None) != jnp.bool_:
        raise TypeError(
            f"the mask of {name!r} is a bool array, True = kept; got "
            f"{getattr(mask, 'dtype', type(mask).__name__)}."
        )
    if np.shape(mask) != np.shape(kernel):
        raise ValueError(
            f"the mask of {name!r} has shape {np.shape(mask)}, its kernel {np.shape(kernel)}."
        )


def widened(*arrays: Any) -> tuple[jax.Array, ...]:
    """The arrays in the dtype in which all are exact, float32 at least."""
    dtype = _tree.wide_dtype(*(x.dtype for x in arrays))
    return tuple(x.astype(dtype) for x in arrays)


def each(f: Callable[..., Any], layers: tuple[int, ...], *arrays: Any) -> Any:
    """Applies a function to each of the layers stacked along the leading axes, by one program."""
    if not layers:
        return f(*arrays)
    flat = [x.reshape(-1, *x.shape[len(layers) :]) for x in arrays]
    if _tree.is_traced(*arrays):
        results = jax.lax.map(lambda one: f(*one), tuple(flat))
    else:
        parts = [f(*(x[i] for x in flat)) for i in range(len(flat[0]))]
        results = jax.tree.map(lambda *xs: jnp.stack(xs), *parts)
    return jax.tree.map(lambda x: x.reshape(*layers, *x.shape[1:]), results)
