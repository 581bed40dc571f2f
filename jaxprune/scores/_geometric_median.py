"""Geometric median: filters that the others can replace go first."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def geometric_median(
    params: PyTree,
    *,
    axis: int | Callable[[str, Any], int] = -1,
    where: Where | None = None,
) -> PyTree:
    """Scores every filter by the sum of its distances to the other filters of its leaf.

    ``score[..., c] = sum_d ||w[..., c] - w[..., d]||_2``. A filter close to the geometric median
    of its layer has the lowest sum; it is the one that the others represent best. All weights of a
    filter share its score, so that this is a criterion for whole channels. The pattern is
    ``jp.masks.channels(axis, norm="max")``: the default norm, a sum, would multiply the score by
    the fan-in.

    Distances are taken filter by filter, so that equal filters have distance 0 exactly, with
    memory of the order of the leaf itself.

    Args:
      params: any pytree of arrays.
      axis: the output-channel axis, or ``axis(path, leaf) -> int``; -1 for Flax, 0 for Equinox.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``axis`` is out of range or, outside `jit`, if a
        weight is NaN or infinite.
      TypeError: if ``where`` selects a leaf that is not floating, or ``axis`` is not an integer.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.scores.geometric_median({"kernel": jnp.array([[0.0, 1.0, 5.0]])})
      {'kernel': Array([[6., 5., 9.]], dtype=float32)}

    References:
      He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
      Acceleration, CVPR 2019, section 3.
    """
    weights = _tree.prunable(params, where)
    _tree.check_finite(weights)

    def score(key_path: tuple[Any, ...], leaf: Any) -> jax.Array:
        path = _tree.path_string(key_path)
        along = operator.index(axis(path, leaf) if callable(axis) else axis)
        if not -leaf.ndim <= along < leaf.ndim:
            raise ValueError(f"axis {along} is out of range for {path!r} of shape {leaf.shape}.")
        return distances(leaf, along)

    return jax.tree_util.tree_map_with_path(score, weights)


@partial(jax.jit, static_argnums=1)
def distances(leaf: Any, axis: int) -> jax.Array:
    """The sum of the distances of each filter to the others, in the leaf's shape."""
    (w,) = _operands.widened(leaf)
    moved = jnp.moveaxis(w, axis, 0)
    filters = moved.reshape(moved.shape[0], -1)

    def total(one: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sqrt(jnp.sum(jnp.square(filters - one[None]), axis=1)))

    totals = jax.lax.map(total, filters)
    aligned = totals.reshape((-1,) + (1,) * (moved.ndim - 1))
    return jnp.moveaxis(jnp.broadcast_to(aligned, moved.shape), 0, axis)
