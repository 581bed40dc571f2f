"""Norms of trees and distances between them, in float32 at least."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree._paths import PyTree, is_absent, is_traced, named_leaves
from jaxprune._tree._structure import check_matches


def wide_dtype(*dtypes: Any) -> Any:
    """Returns float64 if one of the floating dtypes is that, else float32.

    The dtype in which values of all of them are exact. Written out, because JAX' own rule refuses
    to mix dtypes under strict promotion.
    """
    return jnp.float64 if any(np.dtype(d).itemsize == 8 for d in dtypes) else jnp.float32


def largest(x: jax.Array, axis: int | None = None) -> jax.Array:
    """The maximum along an axis, NaN where there is one, -inf where there is nothing.

    XLA's CPU backend drops NaN from a maximum of some hundred numbers.
    """
    top = jnp.max(x, axis=axis, initial=-jnp.inf)
    return jnp.where(jnp.any(jnp.isnan(x), axis=axis), jnp.full_like(top, jnp.nan), top)


def squared_norm(tree: PyTree) -> jax.Array:
    """Returns the sum of ``|x|^2`` over all floating and complex leaves, in float32 at least."""
    total: jax.Array = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(tree):
        if not has_norm(leaf):
            continue
        leaf = jnp.asarray(leaf)  # first: NumPy's float64 is float32 without x64
        parts = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
        for x in parts:
            part = jnp.sum(jnp.square(x.astype(wide_dtype(x.dtype))))
            out = wide_dtype(total.dtype, part.dtype)
            total = total.astype(out) + part.astype(out)
    return total


def has_norm(x: Any) -> bool:
    """Whether ``x`` is an array of floating or complex numbers."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)


def relative_distance(params: PyTree, pruned_params: PyTree) -> jax.Array:
    """Returns ``||params - pruned_params|| / ||params||`` over all floating and complex leaves.

    Differences and sums are taken in float32 at least. 0 where ``params`` is all zero.

    Raises:
      ValueError: if the trees differ, naming the path.
      TypeError: if a leaf of integers differs.
    """
    return _distance(*leaves_with_norm(params, pruned_params))


def leaves_with_norm(params: PyTree, pruned_params: PyTree) -> tuple[list[Any], list[Any]]:
    """The floating and complex leaves of the trees before and after pruning, side by side.

    Raises:
      ValueError: if the trees differ, naming the path.
      TypeError: if a leaf of integers differs. Counters and tables of indices have no part in a
        norm, but integers that were pruned are weights.
    """
    check_matches(pruned_params, params, what="pruned tree")
    ours = jax.tree.leaves(params, is_leaf=is_absent)
    theirs = jax.tree.leaves(pruned_params, is_leaf=is_absent)
    if [is_absent(x) for x in ours] != [is_absent(y) for y in theirs]:
        path = min(dict(named_leaves(params)).keys() ^ dict(named_leaves(pruned_params)).keys())
        raise ValueError(
            f"only one of the trees before and after pruning has a leaf at {path!r}. Pass both "
            "whole, or the same part of both."
        )
    pairs = list(zip(ours, theirs, strict=True))
    for (path, _), (x, y) in zip(
        named_leaves(params), [(x, y) for x, y in pairs if not is_absent(x)], strict=True
    ):
        if has_norm(x) or x is y or is_traced(x, y) or isinstance(x, jax.ShapeDtypeStruct):
            continue
        if not np.array_equal(x, y):
            raise TypeError(
                f"{path!r} holds {getattr(x, 'dtype', type(x).__name__)} and differs before and "
                "after pruning, but norms are of floating or complex weights. Pass the weights "
                "that it stands for, as floats."
            )
    pairs = [(x, y) for x, y in pairs if has_norm(x)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def distance(before: list[jax.Array], after: list[jax.Array]) -> jax.Array:
    """`relative_distance` of `leaves_with_norm`, to be compiled with what uses it."""

    def difference(x: jax.Array, y: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
            return x - y
        wide = wide_dtype(x.dtype, y.dtype)
        return x.astype(wide) - y.astype(wide)

    whole = squared_norm(before)
    moved = squared_norm([difference(x, y) for x, y in zip(before, after, strict=True)])
    return jnp.sqrt(moved / jnp.where(whole > 0, whole, jnp.ones_like(whole)))


_distance = jax.jit(distance)
