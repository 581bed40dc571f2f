"""Work outside of compiled code that compiles little or nothing.

An operation on arrays outside of `jax.jit` is a small XLA program, compiled anew for every shape: a
tree of fifty leaves easily takes a hundred of them.
"""

import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

PyTree: TypeAlias = Any

_PROGRAMS = 64
_programs: dict[Any, Any] = {}


def copied(tree: PyTree) -> PyTree:
    """Copies every array, so that a step may donate one and leave the other. Compiles nothing."""

    def one(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            # A device on the host takes over the buffer that it is given: ours, not the caller's.
            return jax.device_put(x.copy())
        if isinstance(x, jax.Array) and is_concrete(x) and x.is_fully_addressable:
            return jax.device_put(x, may_alias=False)
        return jnp.array(x, copy=True)

    return jax.tree.map(one, tree)


def is_concrete(x: Any) -> bool:
    """Whether the values of an array are known now, not only inside of a compiled program."""
    return not isinstance(x, Tracer)


def host_view(x: Any) -> np.ndarray | None:
    """The values of an array where NumPy reads them without a copy: not to be written, nor kept.

    While it is held a step cannot take over the array's memory.

    Returns:
      The values of an array of the host or on one CPU device; `None` of any other, or a traced one.
    """
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x)
    if not isinstance(x, jax.Array) or not is_concrete(x) or not x.is_fully_addressable:
        return None
    devices = x.devices()
    if len(devices) > 1 or next(iter(devices)).platform != "cpu":
        return None
    # Of the array itself, NumPy's view would be remembered, and so held for good.
    return np.asarray(x.addressable_data(0))


def in_one_program(f: Callable[..., Any], *args: Any) -> Any:
    """``f(*args)`` as one compiled program, the same one for all functions that compute the same.

    Unlike `jax.jit` it traces anew at every call, so it suits functions that are made for one call
    or read what may change. Also while something else is traced it returns values.

    Args:
      f: the function; its name is a part of the program.
      *args: trees of arrays that are tied to no device.

    Raises:
      Whatever tracing raises, e.g. if ``f`` asks for values.
    """
    traced = jax.jit(f, keep_unused=True).trace(*args)
    lowered, program = traced.lower(), traced.jaxpr
    content = hashlib.sha256(lowered.as_text().encode())
    for constant in program.consts:  # in some releases of JAX they are no part of the text
        content.update(np.asarray(constant).tobytes())
    key = (
        content.digest(),
        (lowered.in_tree, *program.in_avals),
        (lowered.out_tree, *program.out_avals),
        jax.config.jax_default_device,  # pyright: ignore[reportAttributeAccessIssue]
    )
    if key not in _programs:
        if len(_programs) == _PROGRAMS:
            del _programs[next(iter(_programs))]
        _programs[key] = lowered.compile()
    return _programs[key](*args)
