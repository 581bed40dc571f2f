"""Prunable leaves beside what is trained along with them, whose shapes may differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _layers, _tree
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is known of a prunable leaf besides its values. To JAX it is a leaf itself.

    Attributes:
      path: its readable path.
      stacked: the axes that several layers are stacked along.
    """

    path: str
    stacked: tuple[int, ...]


def described(params: PyTree, like: PyTree, stacked: Stacked | None) -> PyTree:
    """A `Leaf` for each leaf of ``params`` where ``like``, a partial tree of it, has one.

    Raises:
      ValueError, TypeError: if ``stacked`` does not fit, see `_layers.axes_of`.
    """
    weights = map_prunable(lambda w, _: w, params, like)
    axes = iter(_layers.axes_of(stacked, weights))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: Leaf(_tree.path_string(path), next(axes)), weights
    )


def map_extra(f: Callable[..., Any], params: PyTree, *extras: PyTree) -> PyTree:
    """Maps ``f(param, *extra)`` over the prunable leaves; the other leaves stay as they are.

    Args:
      f: the function of one leaf.
      params: any pytree of arrays.
      *extras: partial trees of ``params``, whose leaves may have other shapes (one threshold for a
        whole leaf, say).

    Returns:
      A tree of the structure of ``params``.

    Raises:
      ValueError: if the trees differ; the message names the first differing path.
    """
    treedef = jax.tree.structure(params, is_leaf=_tree.is_absent)
    return treedef.unflatten(
        leaf if _tree.is_absent(leaf) or missing else f(leaf, *rest)
        for leaf, missing, rest in _columns(params, extras)
    )


def map_prunable(f: Callable[..., Any], params: PyTree, *extras: PyTree) -> PyTree:
    """Maps as `map_extra` does, with `None` at the other leaves."""
    treedef = jax.tree.structure(params, is_leaf=_tree.is_absent)
    return treedef.unflatten(
        None if _tree.is_absent(leaf) or missing else f(leaf, *rest)
        for leaf, missing, rest in _columns(params, extras)
    )


def total(f: Callable[..., jax.Array], params: PyTree, *extras: PyTree) -> jax.Array:
    """Returns the sum of the scalars ``f(param, *extra)`` of the prunable leaves, in float32."""
    result = jnp.zeros((), jnp.float32)
    for leaf, missing, rest in _columns(params, extras):
        if not (missing or _tree.is_absent(leaf)):
            result = result + f(leaf, *rest).astype(jnp.float32)
    return result


def widened(x: jax.Array) -> jax.Array:
    """Returns an array in float32, or float64 if it is that."""
    return x.astype(_tree.wide_dtype(x.dtype))


def half_squares(x: jax.Array) -> jax.Array:
    """Returns ``sum(x^2) / 2``, whose gradient is x; summed in float32 at least."""
    return 0.5 * jnp.sum(jnp.square(widened(x)))


def _columns(params: PyTree, extras: tuple[PyTree, ...]) -> list[tuple[Any, bool, list[Any]]]:
    """Each leaf, whether one of the partial trees has nothing there, and what they have."""
    paths, leaves = _flatten(params)
    columns = []
    for extra in extras:
        theirs, values = _flatten(extra)
        if theirs != paths:
            ours = set(paths) ^ set(theirs)
            raise ValueError(
                f"the trainable tree does not fit together: its parts differ, first at "
                f"{min(ours) if ours else paths[0]!r}. Take trainable and state from the same init."
            )
        columns.append(values)
    rows = zip(*columns, strict=True) if columns else ([] for _ in leaves)
    return [
        (leaf, any(map(_tree.is_absent, row)), list(row))
        for leaf, row in zip(leaves, rows, strict=True)
    ]


def _flatten(tree: PyTree) -> tuple[list[str], list[Any]]:
    pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_tree.is_absent)[0]
    return [_tree.path_string(path) for path, _ in pairs], [leaf for _, leaf in pairs]
