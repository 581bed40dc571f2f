"""Geometric median: filters that the others can replace go first."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._layers import Stacked, axes_of, from_front, layer_shape, to_front
from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def geometric_median(
    params: PyTree,
    *,
    axis: int | Callable[[str, Any], int] = -1,
    where: Where | None = None,
    stacked: Stacked | None = None,
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
        Where layers are stacked it is an axis of a layer, and ``leaf`` has the shape of one.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
      stacked: where leaves hold several layers, stacked along some axes: rules from paths to axes,
        as for `jaxprune.masks.make`. Filters are then compared with those of their layer alone.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``axis`` is out of range, if ``stacked`` names what
        is not there or, outside `jit`, if a weight is NaN or infinite.
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

    axes = axes_of(stacked, weights)
    named = _tree.named_leaves(weights)
    return jax.tree.structure(weights).unflatten(
        _score(path, leaf, axis, own) for (path, leaf), own in zip(named, axes, strict=True)
    )


def _score(
    path: str, leaf: Any, axis: int | Callable[[str, Any], int], axes: tuple[int, ...]
) -> jax.Array:
    shape = layer_shape(leaf.shape, axes)
    layer = jax.ShapeDtypeStruct(shape, leaf.dtype) if axes else leaf
    along = operator.index(axis(path, layer) if callable(axis) else axis)
    if not -len(shape) <= along < len(shape):
        of = f"the layers of {path!r}" if axes else repr(path)
        raise ValueError(f"axis {along} is out of range for {of} of shape {shape}.")
    return _stacked_distances(leaf, along, axes) if axes else distances(leaf, along)


@partial(jax.jit, static_argnums=(1, 2))
def _stacked_distances(leaf: Any, axis: int, axes: tuple[int, ...]) -> jax.Array:
    layers = jax.lax.map(lambda layer: distances(layer, axis), to_front(leaf, axes))
    return from_front(layers, leaf.shape, axes)


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
