"""Work outside of compiled code that compiles little or nothing.

An operation on arrays outside of `jax.jit` is a small XLA program, compiled anew for every shape: a
tree of fifty leaves easily takes a hundred of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding

from jaxprune import _host

PyTree: TypeAlias = Any

_PROGRAMS = 64
_programs: dict[Any, Any] = {}


def copied(tree: PyTree) -> PyTree:
    """Copies every array, so that a step may donate one and leave the other. Compiles nothing."""
    tracing = _host.is_tracing()

    def one(x: Any) -> Any:
        if isinstance(x, np.ndarray) and not tracing:
            # A device on the host takes over the buffer that it is given: ours, not the caller's.
            return jax.device_put(x.copy())
        if isinstance(x, jax.Array) and not tracing and is_concrete(x) and x.is_fully_addressable:
            # Of a random key on several devices JAX makes no copy in spite of the word.
            key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            if not (key and len(x.devices()) > 1):
                return jax.device_put(x, may_alias=False)
        return jnp.array(x, copy=True)

    return jax.tree.map(one, tree)


def unshared(tree: PyTree, *others: PyTree) -> PyTree:
    """``tree`` with a copy of every array whose buffer another leaf, or one of ``others``, has too.

    XLA refuses to donate one buffer twice. Compiles nothing.
    """
    seen = {_buffer(x) for x in jax.tree.leaves(others)}

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or not is_concrete(x):
            return x
        if _buffer(x) in seen:
            x = copied(x)
        seen.add(_buffer(x))
        return x

    return jax.tree.map(one, tree)


def _buffer(x: Any) -> Any:
    """What tells two arrays apart that lie in different places."""
    try:
        shard = x.addressable_shards[0]
        return shard.device.id, shard.data.unsafe_buffer_pointer()
    except Exception:  # no array of JAX, none of this process, a random key
        return id(x)


def full(shape: tuple[int, ...], value: Any, dtype: Any) -> jax.Array:
    """An array full of a value, tied to no device. Compiles nothing."""
    if _host.is_tracing():
        return jnp.full(shape, value, dtype)
    return jax.device_put(np.full(shape, value, dtype))


def full_like(like: Any, value: Any, dtype: Any) -> jax.Array:
    """An array full of a value, of the shape of another and where that lies.

    Compiles nothing if that is a single CPU device.
    """
    if _host.view(like) is None or _host.is_tracing():
        return jnp.full_like(like, value, dtype=dtype)
    where = like.sharding if isinstance(like, jax.Array) and like.committed else None
    return jax.device_put(np.full(like.shape, value, dtype), where)


def is_concrete(x: Any) -> bool:
    """Whether the values of an array are known now, not only inside of a compiled program."""
    return not isinstance(x, Tracer)


def is_untied(tree: PyTree) -> bool:
    """Whether all arrays are known, tied to no device, and nothing is traced."""
    leaves = jax.tree.leaves(tree)
    arrays = all(isinstance(x, (jax.Array, np.ndarray)) for x in leaves)
    return arrays and places(leaves) == frozenset() and not _host.is_tracing()


def computed(f: Callable[..., Any], *args: Any) -> Any:
    """``f(*args)``, in one program if that can be, else operation by operation.

    It cannot be if ``f`` asks for values or returns what is no array. Nor where arrays are tied to
    devices: what ``f`` makes should lie where it puts it.
    """
    if is_untied(args):
        with contextlib.suppress(Exception):
            return in_one_program(f, *args)
    return f(*args)


class Row:
    """The arguments of a function of one leaf, in the place of its result. No pytree."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments


def together(f: Callable[..., Any], tree: PyTree) -> PyTree:
    """``tree`` with ``f(*arguments)`` in the place of every `Row`.

    Outside of compiled code it is one program for all rows that lie on the same devices, instead of
    some for every shape.

    Args:
      f: a function of the arguments of a row; the same object at every call, or it is compiled
        again.
      tree: a tree with leaves of type `Row`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Row):
            groups.setdefault(places(leaf.arguments), []).append(i)
    for where, indices in groups.items():
        rows = [leaves[i].arguments for i in indices]
        results = [f(*row) for row in rows] if where is None else _compiled(f, rows)
        for i, result in zip(indices, results, strict=True):
            leaves[i] = result
    return treedef.unflatten(leaves)


@partial(jax.jit, static_argnums=0)
def _compiled(f: Callable[..., Any], rows: list[tuple[Any, ...]]) -> list[Any]:
    return [f(*row) for row in rows]


def places(arrays: Any) -> frozenset[Any] | None:
    """The devices or meshes that arrays are tied to; `None` if one is traced."""
    if not all(map(is_concrete, arrays)):
        return None
    tied = [x.sharding for x in arrays if isinstance(x, jax.Array) and x.committed]
    return frozenset(s.mesh if isinstance(s, NamedSharding) else s for s in tied)


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
    lowered, jaxpr = traced.lower(), traced.jaxpr
    content = hashlib.sha256(lowered.as_text().encode())
    for constant in jaxpr.consts:  # in some releases of JAX they are no part of the text
        content.update(np.asarray(constant).tobytes())
    key = (
        content.digest(),
        (lowered.in_tree, *jaxpr.in_avals),
        (lowered.out_tree, *jaxpr.out_avals),
        jax.config.jax_default_device,  # pyright: ignore[reportAttributeAccessIssue]
    )
    program = _programs.get(key)
    if program is None:
        program = lowered.compile()
        if len(_programs) >= _PROGRAMS:
            _programs.clear()
        _programs[key] = program
    return program(*args)
