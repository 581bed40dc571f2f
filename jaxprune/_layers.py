"""Layers: a leaf is one, or holds several of one shape that are stacked along some of its axes.

Layers are stacked by `flax.linen.scan`, in experts ``[experts, in, out]``, and in ensembles made by
`jax.vmap`. What counts layer by layer (allocations, limits, patterns, the check for collapse) then
means each index along the stacked axes. A layer has the path of its leaf with its index behind it:
``"layers/kernel[3]"``.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree

Stacked: TypeAlias = Mapping[str, int | Sequence[int]]
# Of each leaf the axes that layers are stacked along, counted from the first; none: it is a layer.
Axes: TypeAlias = tuple[tuple[int, ...], ...]


@jax.tree_util.register_pytree_with_keys_class
class Layers:
    """A tree of layers, by their paths: what an allocation gets of leaves that are stacked."""

    def __init__(self, paths: Sequence[str], leaves: Sequence[Any]):
        self._paths, self._leaves = tuple(paths), list(leaves)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """As JAX asks it of a class of trees."""
        keys = (jax.tree_util.DictKey(path) for path in self._paths)
        return list(zip(keys, self._leaves, strict=True)), self._paths

    @classmethod
    def tree_unflatten(cls, paths: Any, leaves: Any) -> Layers:
        """As JAX asks it of a class of trees."""
        return cls(paths, leaves)


def axes_of(stacked: Stacked | None, tree: PyTree) -> Axes:
    """The axes that ``stacked`` names for each leaf.

    Args:
      stacked: rules from a path, or a regular expression that matches a whole path, to an axis or
        several, negative from the last. The first that matches a leaf counts.
      tree: the scores, or any tree with leaves of their paths and shapes.

    Returns:
      One tuple of axes a leaf.

    Raises:
      ValueError: if a rule matches no leaf, or names an axis that a leaf does not have, twice, or
        all of its axes.
      TypeError: if ``stacked`` is no mapping of such rules.
    """
    named = _tree.named_leaves(tree)
    if stacked is None:
        return ((),) * len(named)
    if not isinstance(stacked, Mapping) or not all(isinstance(key, str) for key in stacked):
        raise TypeError(
            "stacked is a mapping from a path, or a regular expression for whole paths, to the "
            f"axis along which layers are stacked, such as {{'layers/.*': 0}}; got {stacked!r}."
        )
    for rule in stacked:
        if not any(_is_named(rule, path) for path, _ in named):
            raise ValueError(
                f"stacked has the rule {rule!r}, which matches no prunable leaf. Rules match whole "
                f"paths, such as {', '.join(repr(path) for path, _ in named[:3])}."
            )
    return tuple(axes_at(stacked, path, leaf) for path, leaf in named)


def axes_at(stacked: Stacked | None, path: str, leaf: Any) -> tuple[int, ...]:
    """The axes that ``stacked`` names for one leaf, see `axes_of`; none if no rule matches it."""
    for rule, given in (stacked or {}).items():
        if _is_named(rule, path):
            axes = _checked(given, path, leaf)
            return axes if number(np.shape(leaf), axes) else ()  # nothing is stacked
    return ()


def _is_named(rule: str, path: str) -> bool:
    try:
        return path == rule or re.fullmatch(rule, path) is not None
    except re.error as error:
        raise ValueError(
            f"stacked has the rule {rule!r}, which is no regular expression ({error})."
        ) from None


def _checked(given: Any, path: str, leaf: Any) -> tuple[int, ...]:
    several = isinstance(given, Sequence) and not isinstance(given, str)
    axes: tuple[Any, ...] = tuple(given) if several else (given,)
    if not axes or any(isinstance(a, bool) or not isinstance(a, numbers.Integral) for a in axes):
        raise TypeError(f"stacked gives {given!r} for {path!r}; give an axis, or several.")
    shape = np.shape(leaf)
    for axis in axes:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"stacked names axis {axis} of {path!r}, whose shape is {shape}.")
    positive = tuple(sorted(int(axis) % len(shape) for axis in axes))
    if len(set(positive)) < len(positive) or len(positive) == len(shape):
        raise ValueError(
            f"stacked names the axes {given} of {path!r}, of shape {shape}: each at most once, and "
            "not all, because a layer has an axis of its own."
        )
    return positive


def with_stacked(scores: Callable[..., Any], stacked: Stacked | None) -> Callable[..., Any]:
    """A score function that knows the rules, if it asks for them by name.

    Those that compare weights within a layer, such as `jaxprune.scores.lamp`, do. Otherwise they
    would compare across the layers that the mask keeps apart.
    """
    if stacked is None:
        return scores
    try:
        asks = inspect.signature(scores).parameters.get("stacked")
    except ValueError:  # no signature, as some builtins
        return scores
    bound = scores.keywords if isinstance(scores, functools.partial) else {}
    if asks is None or asks.kind is inspect.Parameter.POSITIONAL_ONLY or "stacked" in bound:
        return scores
    return functools.partial(scores, stacked=stacked)


def layer_shape(shape: Sequence[int], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each layer of a leaf."""
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def number(shape: Sequence[int], axes: tuple[int, ...]) -> int:
    """How many layers a leaf holds."""
    return math.prod(shape[axis] for axis in axes)


def to_front(x: Any, axes: tuple[int, ...]) -> Any:
    """A leaf, or ``[layers, *shape of a layer]`` where it holds several. Of NumPy or JAX."""
    if not axes:
        return x
    library = np if isinstance(x, np.ndarray) else jnp
    shape = (number(x.shape, axes), *layer_shape(x.shape, axes))
    return library.moveaxis(x, axes, range(len(axes))).reshape(shape)


def from_front(x: Any, shape: Sequence[int], axes: tuple[int, ...]) -> Any:
    """The reverse of `to_front`, for a leaf of the given shape."""
    if not axes:
        return x
    library = np if isinstance(x, np.ndarray) else jnp
    whole = (*(shape[axis] for axis in axes), *layer_shape(shape, axes))
    return library.moveaxis(x.reshape(whole), range(len(axes)), axes)


def per_layer(values: Sequence[Any], leaves: Sequence[Any], axes: Axes) -> list[Any]:
    """One value a layer, from one a leaf."""
    return [
        value
        for value, leaf, own in zip(values, leaves, axes, strict=True)
        for _ in range(number(np.shape(leaf), own))
    ]


def named(tree: PyTree, axes: Axes) -> list[tuple[str, Any]]:
    """The layers of a tree with their paths, those of stacked leaves as shapes only."""
    out: list[tuple[str, Any]] = []
    for (path, leaf), own in zip(_tree.named_leaves(tree), axes, strict=True):
        if not own:
            out.append((path, leaf))
            continue
        like = jax.ShapeDtypeStruct(layer_shape(leaf.shape, own), leaf.dtype)
        indices = itertools.product(*(range(leaf.shape[axis]) for axis in own))
        out += [(f"{path}[{','.join(map(str, index))}]", like) for index in indices]
    return out


def taken_apart(tree: PyTree, axes: Axes) -> Layers:
    """The tree of layers, as `named` names them, with their values."""
    leaves = []
    for leaf, own in zip(jax.tree.leaves(tree), axes, strict=True):
        leaves += list(to_front(leaf, own)) if own else [leaf]
    return Layers([path for path, _ in named(tree, axes)], leaves)
