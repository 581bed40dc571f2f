"""Quantised weights: the numbers that integers stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import _tree


def is_quantised(x: Any) -> bool:
    """Whether an array holds integers of 8 bits or fewer; wider ones are counters and indices."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
        return False
    return np.dtype(x.dtype).itemsize == 1


def dequantised(path: str, arrays: Mapping[str, Any], scales: Mapping[str, Any]) -> Any:
    """``scale * (integer - zero point)``, float32 at least; the integers without a scale.

    Args:
      path: of the integers.
      arrays: all parameters by path. Beside ``.../qvalue`` stand ``.../scale`` and
        ``.../zero_point``, as in Qwix.
      scales: by path: an array or the path of one; they come first.

    Raises:
      ValueError: if a scale does not fit.
    """
    # First: in eight bits |-128| is -128.
    values = jnp.asarray(arrays[path]).astype(jnp.float32)
    beside, _, own = path.rpartition("/")
    near = f"{beside}/" if beside else ""
    scale = scales.get(path, f"{near}scale" if own == "qvalue" else None)
    if isinstance(scale, str) and path in scales and scale not in arrays:
        raise ValueError(f"scales gives {scale!r} for {path!r}, but there is no such parameter.")
    scale = arrays.get(scale) if isinstance(scale, str) else scale
    zero = arrays.get(f"{near}zero_point") if own == "qvalue" else None
    if zero is not None:
        values = values - _tiled(path, zero, values.shape).astype(values.dtype)
    if scale is None:
        return values
    scale = _tiled(path, scale, values.shape)
    return values.astype(_tree.wide_dtype(scale.dtype)) * scale


def _tiled(path: str, x: Any, shape: tuple[int, ...]) -> Any:
    """An array brought to a shape: axes of one repeat, those smaller by a factor in tiles."""
    x = jnp.asarray(x)
    x = x.astype(_tree.wide_dtype(x.dtype))
    now = (1,) * (len(shape) - x.ndim) + x.shape
    if x.ndim > len(shape) or any(n % m for n, m in zip(shape, now, strict=True)):
        raise ValueError(
            f"a scale or zero point of shape {x.shape} does not fit {path!r} of shape {shape}."
        )
    x = x.reshape(now)
    for axis, (n, m) in enumerate(zip(shape, now, strict=True)):
        x = x if n == m else jnp.repeat(x, n // m, axis=axis)
    return x
