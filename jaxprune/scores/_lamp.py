"""LAMP: layer-adaptive magnitude-based pruning."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._layers import Axes, Stacked, axes_of, from_front, to_front
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree
from jaxprune.scores import _operands


def lamp(scores: PyTree, *, within: PyTree | None = None, stacked: Stacked | None = None) -> PyTree:
    """Rescales the scores of each leaf so that they can be compared across leaves.

    With the scores u of a leaf in ascending order (among equals the lowest index first, as masks
    remove them), ``lamp(u_i) = u_i^2 / sum_{j >= i} u_j^2``. The order within a leaf is that of u,
    the largest of a leaf gets exactly 1 (0 if all are zero), and no leaf is emptied before all
    others are. Of `magnitude` this gives the published score; any nonnegative score may be used.

    Squares are taken relative to the largest of the leaf, so they neither overflow nor depend on
    its scale; scores below about 1e-19 of the largest get 0 in float32. This is one sort per leaf.

    Args:
      scores: a tree of nonnegative floating arrays, `None` where a leaf is not prunable.
      within: a mask; what it has removed counts as 0.
      stacked: where leaves hold several layers, stacked along some axes: rules from paths to axes,
        as for `jaxprune.masks.make`. Each layer is then rescaled as a leaf of its own.

    Returns:
      A tree like ``scores`` of float32 arrays (float64 for float64) in [0, 1].

    Raises:
      ValueError: if ``within`` is of another tree, if ``stacked`` names what is not there or,
        outside `jit`, if a score is negative (its square would lose the order), NaN or infinite.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.array([[-2.0, 1.0]])}
      >>> jp.scores.lamp(jp.scores.magnitude(params))
      {'kernel': Array([[1. , 0.2]], dtype=float32)}

    References:
      Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, section 2.
    """
    _tree.check_finite(scores, what="scores")
    for path in _tree.negative(scores):
        raise ValueError(
            f"the scores at {path!r} are negative somewhere; LAMP squares them, which would lose "
            "their order. Pass nonnegative scores such as `magnitude`."
        )
    axes = axes_of(stacked, scores)
    arrays, treedef = jax.tree.flatten(scores)
    if within is None:
        return treedef.unflatten(_rescaled(arrays, [None] * len(arrays), axes))
    rows: list[tuple[Any, Any]] = []
    _tree.map_partial(lambda kept, u: rows.append((u, kept)), within, scores, what="mask `within`")
    return treedef.unflatten(_rescaled([u for u, _ in rows], [kept for _, kept in rows], axes))


@partial(jax.jit, static_argnums=2)
def _rescaled(scores: list[Any], within: list[Any], axes: Axes) -> list[jax.Array]:
    return [
        _whole(u if kept is None else or_zero(kept, u), own)
        for u, kept, own in zip(scores, within, axes, strict=True)
    ]


def _whole(u: Any, axes: tuple[int, ...]) -> jax.Array:
    """The scores of a leaf, one layer after the other."""
    # Flat, so that layers of one size share a program, whatever their shapes.
    if not axes:
        return _rescale(u.ravel()).reshape(u.shape)
    front = to_front(u, axes)
    rescaled = jax.lax.map(_rescale, front.reshape(front.shape[0], -1))
    return from_front(rescaled.reshape(front.shape), u.shape, axes)


@jax.jit
def _rescale(scores: Any) -> jax.Array:
    (u,) = _operands.widened(scores)
    flat = jnp.abs(u)  # -0.0 sorts with +0.0
    index = jax.lax.iota(jnp.uint32, flat.size)
    ascending, order = jax.lax.sort((flat, index), num_keys=1, is_stable=True)
    largest = ascending[-1:]
    squares = jnp.square(ascending / jnp.where(largest > 0, largest, jnp.ones_like(largest)))
    # Parallel prefix sums round each entry its own way, and division may be off by an ulp: running
    # maxima make both sequences monotone again, so that rounding never swaps two weights.
    sums = jax.lax.cummax(jax.lax.cumsum(squares, reverse=True), reverse=True)
    ratios = jax.lax.cummax(squares / jnp.where(sums > 0, sums, jnp.ones_like(sums)))
    ratios = jnp.minimum(ratios, jnp.ones_like(ratios))
    return jnp.zeros_like(flat).at[order].set(ratios, unique_indices=True)
