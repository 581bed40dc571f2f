"""Allocations and patterns of the layers of a tree, see `jaxprune._layers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._layers import Axes, Layers, from_front, named, number, per_layer, taken_apart
from jaxprune._tree import PyTree
from jaxprune.masks.allocations import Allocation, Pools
from jaxprune.masks.patterns import Pattern, PatternSpec, _pattern


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


def _put_together(leaves: Sequence[Any], like: Sequence[Any], axes: Axes) -> list[Any]:
    out, rest = [], iter(leaves)
    for leaf, own in zip(like, axes, strict=True):
        if own:
            some = [next(rest) for _ in range(number(leaf.shape, own))]
            out.append(from_front(jnp.stack(some), leaf.shape, own))
        else:
            out.append(next(rest))
    return out
