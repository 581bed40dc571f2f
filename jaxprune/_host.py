"""Arrays in the memory of this process, read with NumPy: nothing is traced, compiled or copied.

JAX compiles a program for every operation and shape that it meets, which for the first prune of a
network takes longer than the pruning. An array on a CPU device can be read in place instead. What
lies on an accelerator, is spread over devices, or is traced stays with JAX.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

_ALIGNMENT = 64  # bytes: XLA takes an array that begins at a multiple as it is
_PIECE = 1 << 16  # entries


def is_tracing() -> bool:
    """Whether operations are recorded now, those on known values, too."""
    return isinstance(jax.device_put(np.zeros((), bool)), Tracer)


def view(x: Any) -> np.ndarray | None:
    """The values of an array where NumPy reads them without a copy: not to be written, nor kept.

    While it is held a step cannot take over the array's memory.

    Returns:
      The values of an array of NumPy or on one CPU device; `None` of any other, or a traced one.
    """
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x)
    if isinstance(x, Tracer) or not isinstance(x, jax.Array) or not x.is_fully_addressable:
        return None
    devices = x.devices()
    if len(devices) > 1 or next(iter(devices)).platform != "cpu":
        return None
    # Of the array itself, NumPy's view would be remembered, and so held for good.
    return np.asarray(x.addressable_data(0))


def views(arrays: Sequence[Any]) -> list[np.ndarray] | None:
    """The views of arrays that stand for the same values in JAX.

    `None` if one has none, or while something is traced: then operations on known values are, too.
    """
    if is_tracing():
        return None
    found: list[np.ndarray] = []
    for x in arrays:
        here = view(x)
        # JAX' arrays of NumPy's lie on its default device, and have its dtypes.
        if here is None or (isinstance(x, np.ndarray) and not _is_taken_as_it_is(x)):
            return None
        found.append(here)
    return found


def _is_taken_as_it_is(x: np.ndarray) -> bool:
    return jax.default_backend() == "cpu" and jax.dtypes.canonicalize_dtype(x.dtype) == x.dtype


def on_one_device(arrays: Sequence[Any]) -> bool:
    """Whether all arrays are known to lie on one and the same device; False for traced ones."""
    if any(isinstance(x, Tracer) for x in arrays):
        return False
    devices = {d for x in arrays if isinstance(x, jax.Array) for d in x.sharding.device_set}
    return len(devices) <= 1


def to_jax(array: np.ndarray, like: Any) -> jax.Array:
    """The array as JAX array, where ``like`` lies."""
    if isinstance(like, jax.Array) and like.committed:
        return jax.device_put(array, like.sharding)
    return jax.device_put(array)  # not jnp.asarray, which compiles a copy for every shape


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to be filled, placed so that `to_jax` need not copy it."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def pieces(flat: np.ndarray) -> Iterator[np.ndarray]:
    """Cuts a flat array into pieces: what is computed of one stays in the processor's cache."""
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]


def holds_nan(x: np.ndarray) -> bool:
    """Whether a floating array holds a NaN."""
    # A maximum passes NaN on, in every format, and writes nothing. Of narrow formats NumPy warns.
    with np.errstate(invalid="ignore"):
        return bool(x.size) and bool(np.isnan(x.max()))


def is_finite(x: np.ndarray) -> bool:
    """Whether a floating array holds neither NaN nor infinity."""
    with np.errstate(invalid="ignore"):
        return not x.size or bool(np.isfinite(x.max()) and np.isfinite(x.min()))


def sizes(x: np.ndarray) -> np.ndarray:
    """The absolute values."""
    return np.abs(x, out=empty(x.shape, x.dtype))


def where(mask: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The entries of ``x`` where the mask is True, zeros elsewhere."""
    out = empty(x.shape, x.dtype)
    if x.dtype.itemsize > 8 or not x.flags.c_contiguous or not mask.flags.c_contiguous:
        out[...] = np.where(mask, x, np.zeros((), x.dtype))
        return out
    # The bits of a number and those of -1 or 0: half the time of a choice.
    integer = np.dtype(f"i{x.dtype.itemsize}")
    columns = (
        array.reshape(-1) for array in (mask.view(np.int8), x.view(integer), out.view(integer))
    )
    for keep, bits, result in zip(*map(pieces, columns), strict=True):
        np.bitwise_and(bits, (-keep).astype(integer), out=result)
    return out
