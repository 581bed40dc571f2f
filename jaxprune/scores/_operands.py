"""What scores share: the weights, and the trees that go with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree, Where


def paired(
    params: PyTree, other: PyTree, *, what: str, repair: str, where: Where | None = None
) -> list[tuple[str, Any, Any]]:
    """Pairs every prunable weight with its counterpart in another tree.

    Args:
      params: any pytree of arrays.
      other: a tree of the same paths; it may hold `None` where ``params`` is not prunable. Shapes
        are left to the caller.
      what: the word for ``other`` in errors.
      repair: how to make ``other`` complete.
      where: which leaves are prunable.

    Returns:
      (path, weight, counterpart) of each prunable leaf, in `jax.tree.leaves` order.

    Raises:
      ValueError: if no leaf is prunable, the trees differ, a counterpart is missing or, outside
        `jit`, weights or counterparts are NaN or infinite.
      TypeError: if ``where`` selects a leaf that is not floating.
    """
    weights = _tree.prunable(params, where)
    skeleton = jax.tree.map(lambda _: None, other)
    _tree.check_matches(skeleton, weights, what=what)
    named = jax.tree_util.tree_leaves_with_path(weights, is_leaf=_tree.is_absent)
    counterparts = jax.tree.leaves(other, is_leaf=_tree.is_absent)
    pairs = []
    for (key_path, weight), counterpart in zip(named, counterparts, strict=True):
        if _tree.is_absent(weight):
            continue
        path = _tree.path_string(key_path)
        if _tree.is_absent(counterpart):
            raise ValueError(f"the {what} have nothing for the prunable leaf {path!r}. {repair}")
        _tree.check_finite({path: weight})
        _tree.check_finite({path: counterpart}, what=what)
        pairs.append((path, weight, counterpart))
    return pairs


def map_products(
    f: Callable[[jax.Array, jax.Array], jax.Array],
    params: PyTree,
    other: PyTree,
    *,
    what: str,
    where: Where | None = None,
) -> PyTree:
    """Applies ``f(weight, counterpart)`` to prunable leaves, in float32 at least.

    Products of 16-bit numbers would underflow, and round to ties that only the index breaks.

    Returns:
      A tree like ``params``, `None` where a leaf is not prunable.

    Raises:
      ValueError: as `paired` does, and if shapes differ.
      TypeError: if ``where`` selects a leaf that is not floating.
    """
    repair = "Differentiate with respect to the whole parameter tree."
    pairs = paired(params, other, what=what, repair=repair, where=where)
    _tree.check_matches(other, _tree.prunable(params, where), what=what)
    return unflatten_like(params, where, [f(*widened(w, g)) for _, w, g in pairs])


def unflatten_like(params: PyTree, where: Where | None, scores: list[Any]) -> PyTree:
    """Puts one score per prunable leaf into a tree like ``params``."""
    return jax.tree.structure(_tree.prunable(params, where)).unflatten(scores)


def widened(*leaves: Any) -> tuple[jax.Array, ...]:
    """Casts arrays to the common dtype of float32 at least in which all are exact."""
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    dtype = _tree.wide_dtype(*(x.dtype for x in arrays))
    return tuple(x.astype(dtype) for x in arrays)


def floating_part(params: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree]]:
    """Splits off the floating leaves, which are those that can be differentiated.

    Returns:
      The floating leaves, and a function from replacements of them to the whole tree.
    """
    leaves, treedef = jax.tree.flatten(params)
    chosen = [i for i, leaf in enumerate(leaves) if _tree.is_floating(leaf)]

    def rebuild(replacements: list[Any]) -> PyTree:
        whole = list(leaves)
        for i, leaf in zip(chosen, replacements, strict=True):
            whole[i] = leaf
        return treedef.unflatten(whole)

    return [leaves[i] for i in chosen], rebuild


def unflatten_floating(params: PyTree, replacements: list[Any]) -> PyTree:
    """Returns a tree like ``params`` of replaced floating leaves, `None` elsewhere."""
    leaves, treedef = jax.tree.flatten(params)
    rest = iter(replacements)
    return treedef.unflatten([next(rest) if _tree.is_floating(x) else None for x in leaves])
