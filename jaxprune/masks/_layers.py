"""Masks layer by layer, where one leaf holds several layers.

What counts layer by layer (allocations, limits, patterns, the check for collapse) means each index
along the stacked axes. A layer has the path of its leaf with its index behind it:
``"layers/kernel[3]"``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._layers import Axes as Axes
from jaxprune._layers import Stacked as Stacked
from jaxprune._layers import axes_of as axes_of
from jaxprune._layers import from_front as from_front
from jaxprune._layers import layer_shape as layer_shape
from jaxprune._layers import number as number
from jaxprune._layers import to_front as to_front
from jaxprune._tree import PyTree
from jaxprune.masks.allocations import Allocation, Pools
from jaxprune.masks.patterns import Pattern, PatternSpec, _pattern


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


def _put_together(leaves: Sequence[Any], like: Sequence[Any], axes: Axes) -> list[Any]:
    out, rest = [], iter(leaves)
    for leaf, own in zip(like, axes, strict=True):
        if own:
            some = [next(rest) for _ in range(number(leaf.shape, own))]
            out.append(from_front(jnp.stack(some), leaf.shape, own))
        else:
            out.append(next(rest))
    return out


def allocate(
    allocation: Allocation, scores: PyTree, within: PyTree | None, axes: Axes
) -> tuple[list[Any], Pools]:
    """Calls an allocation with the layers of a tree.

    Returns:
      The leaves of the rescaled scores, whole, and the pools of the layers.
    """
    if not any(axes):
        rescaled, pools = allocation(scores, within)
        return jax.tree.leaves(rescaled), pools
    # Most allocations look at shapes only. Then no leaf is taken apart: on several devices that
    # would move the layers.
    found: list[tuple[Pools, bool]] = []

    def look(scores: Layers, within: Layers | None) -> None:
        rescaled, pools = allocation(scores, within)
        pairs = zip(jax.tree.leaves(rescaled), jax.tree.leaves(scores), strict=True)
        found.append((pools, all(x is y for x, y in pairs)))

    def shapes(tree: PyTree) -> Layers:
        each = named(tree, axes)
        like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for _, x in each]
        return Layers([path for path, _ in each], like)

    jax.eval_shape(look, shapes(scores), None if within is None else shapes(within))
    ((pools, unchanged),) = found
    leaves = jax.tree.leaves(scores)
    if unchanged:
        return leaves, pools
    before = None if within is None else taken_apart(within, axes)
    rescaled, pools = allocation(taken_apart(scores, axes), before)
    return _put_together(jax.tree.leaves(rescaled), leaves, axes), pools


def specs_of(pattern: Pattern | None, scores: PyTree, axes: Axes) -> tuple[PatternSpec | None, ...]:
    """The spec of each layer.

    Raises:
      ValueError, TypeError: as `patterns.resolve`; and if the layers of one leaf differ.
    """
    if not any(axes) or pattern is None:
        specs = _pattern.resolve(pattern, scores)
        return tuple(per_layer(specs, jax.tree.leaves(scores), axes))
    each = named(scores, axes)
    specs = _pattern.resolve(pattern, Layers([p for p, _ in each], [x for _, x in each]))
    whole, first = _tree.named_leaves(scores), 0
    of_leaves: list[PatternSpec | None] = []
    for (path, leaf), own in zip(whole, axes, strict=True):
        some = specs[first : first + number(leaf.shape, own)]
        if len(set(some)) > 1:
            raise ValueError(
                f"the pattern cuts the layers stacked in {path!r} in different ways: {some[0]} and "
                f"{next(s for s in some if s != some[0])}. Give all layers of a leaf the same."
            )
        of_leaves.append(some[0] if some else None)
        first += len(some)
    _pattern.check_signs(whole, of_leaves)
    return specs
