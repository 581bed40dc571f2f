"""Leaves and their readable addresses: ``"Dense_0/kernel"``, the parts joined by "/"."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

PyTree: TypeAlias = Any

# Attribute names that wrappers put around an array and that say nothing about its role:
# `nnx.Param.value`, Flax's boxed metadata, Haliax' named arrays.
WRAPPER_NAMES = frozenset({"value", "raw_value", "array"})


def path_string(path: tuple[Any, ...]) -> str:
    """Returns the readable form of a JAX key path, e.g. ``"Dense_0/kernel"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def owner(path: str) -> str:
    """Returns the name of the module that a leaf belongs to: "query" of ``"a/query/kernel"``."""
    parts = path.split("/")
    while len(parts) > 1 and parts[-1] in WRAPPER_NAMES:
        parts.pop()  # "query/kernel/value", as `nnx.Param` has it
    return parts[-2] if len(parts) > 1 else ""


def own_name(path: str) -> str:
    """Returns what a leaf is called: "scale" of ``"norm/scale"`` and of ``"norm/scale/value"``."""
    parts = path.split("/")
    while len(parts) > 1 and parts[-1] in WRAPPER_NAMES:
        parts.pop()
    return parts[-1]


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns the leaves of ``tree`` with their readable paths, in `jax.tree.leaves` order."""
    return [(path_string(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def is_absent(x: Any) -> bool:
    """Whether ``x`` stands for "no leaf here": `None`, or optax's `MaskedNode`."""
    return x is None or isinstance(x, optax.MaskedNode)


def is_floating(x: Any) -> bool:
    """Whether ``x`` is an array (or an abstract one) of a floating dtype."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def is_traced(*trees: PyTree) -> bool:
    """Whether any leaf is a tracer, i.e. whether we are inside a transformation such as `jit`."""
    return any(isinstance(leaf, Tracer) for tree in trees for leaf in jax.tree.leaves(tree))


def known(flag: Any) -> bool:
    """Whether a condition is known now and holds; False for a traced one.

    Inside `jit` an operation on a concrete array that the function closes over is traced, too: ask
    about the outcome, not about the array.
    """
    return not is_traced(flag) and bool(flag)


def size(tree: PyTree) -> int:
    """Returns the number of entries of all leaves, as a Python integer (exact at any size)."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))
