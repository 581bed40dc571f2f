"""Masks as sets of kept weights: union, intersection, difference, complement."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprune._mask import check_bool, check_pair
from jaxprune._tree import PyTree


def union(a: PyTree, b: PyTree) -> PyTree:
    """Returns the mask that keeps what ``a`` or ``b`` keeps.

    Args:
      a: a mask, True = kept, `None` where a leaf is not prunable.
      b: another mask of the same parameters.

    Returns:
      A tree like ``a`` of bool arrays. Works under `jit` and `vmap`; sharded leaves stay sharded.

    Raises:
      ValueError: if the masks are of different trees; the message names the path.
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, False])}
      >>> jp.masks.union(a, b)["w"].tolist()
      [True, True, False]
    """
    return _combine(jnp.logical_or, a, b)


def intersection(a: PyTree, b: PyTree) -> PyTree:
    """Returns the mask that keeps what both ``a`` and ``b`` keep.

    Args:
      a: a mask, True = kept, `None` where a leaf is not prunable.
      b: another mask of the same parameters.

    Returns:
      A tree like ``a`` of bool arrays. Works under `jit` and `vmap`; sharded leaves stay sharded.

    Raises:
      ValueError: if the masks are of different trees; the message names the path.
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, False])}
      >>> jp.masks.intersection(a, b)["w"].tolist()
      [True, False, False]
    """
    return _combine(jnp.logical_and, a, b)


def difference(a: PyTree, b: PyTree) -> PyTree:
    """Returns the mask that keeps what ``a`` keeps and ``b`` does not.

    Args:
      a: a mask, True = kept, `None` where a leaf is not prunable.
      b: another mask of the same parameters.

    Returns:
      A tree like ``a`` of bool arrays. Works under `jit` and `vmap`; sharded leaves stay sharded.
      Of the masks before and after a prune it marks what that prune removed.

    Raises:
      ValueError: if the masks are of different trees; the message names the path.
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, False])}
      >>> jp.masks.difference(a, b)["w"].tolist()
      [False, True, False]
    """
    return _combine(lambda x, y: jnp.logical_and(x, jnp.logical_not(y)), a, b)


def complement(mask: PyTree) -> PyTree:
    """Returns the mask that keeps exactly what ``mask`` removes, of the prunable weights.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.

    Returns:
      A tree like ``mask`` of bool arrays; `None` stays `None`.

    Raises:
      TypeError: if a leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.masks.complement({"kernel": jnp.array([True, False]), "bias": None})
      {'bias': None, 'kernel': Array([False,  True], dtype=bool)}
    """
    check_bool(mask)
    return jax.tree.map(jnp.logical_not, mask)


def _combine(f: Callable[[jax.Array, jax.Array], jax.Array], a: PyTree, b: PyTree) -> PyTree:
    check_pair(a, b)
    # Leaf by leaf, not by jax.tree.map: equal paths in other containers are the same parameters.
    leaves, treedef = jax.tree.flatten(a)
    return treedef.unflatten(map(f, leaves, jax.tree.leaves(b)))
