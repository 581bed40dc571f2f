"""Batch norm scale: network slimming's importance of an output channel."""

from __future__ import annotations

import collections
import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._layers import Stacked, axes_of, from_front, layer_shape, to_front
from jaxprune._tree import PyTree


def batch_norm_scale(
    params: PyTree,
    scales: Mapping[str, str],
    *,
    axis: int | Mapping[str, int] = -1,
    stacked: Stacked | None = None,
) -> PyTree:
    """Scores every weight by the scale of the norm that follows its output channel.

    ``score[..., c] = |gamma_c|``. All weights of a channel share one score, so that this is a
    criterion for whole channels, of a network trained with an L1 penalty on its scales. The pattern
    is ``jp.masks.channels(axis, norm="max")``: the default norm, a sum, would multiply the scale by
    the fan-in, so that leaves with a small fan-in lose their channels first.

    Which norm follows which kernel cannot be read off a parameter tree, and is therefore given by
    exact paths. Only the kernels that are named get a score.

    Args:
      params: any pytree of arrays that holds kernels and scales.
      scales: ``{path of a kernel: path of its scale}``, parts joined by "/".
      axis: the output-channel axis of the kernels, or ``{path of a kernel: axis}``; -1 for Flax,
        0 for Equinox. Where layers are stacked it is an axis of a layer.
      stacked: where kernels and scales hold several layers, stacked along some axes: rules from
        paths to axes, as for `jaxprune.masks.make`. Each layer then gets its own scales.

    Returns:
      A tree like ``params`` of arrays of the kernels' shapes in the scales' dtype, `None` at all
      leaves that ``scales`` does not name.

    Raises:
      ValueError: if ``scales`` is empty, names an unknown path, a scale is not of shape
        [channels], ``stacked`` names what is not there or, outside `jit`, if a scale is NaN or
        infinite.
      TypeError: if a named leaf is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"conv": {"kernel": jnp.ones((1, 2))}, "norm": {"scale": jnp.array([-3.0, 1.0])}}
      >>> jp.scores.batch_norm_scale(params, {"conv/kernel": "norm/scale"})
      {'conv': {'kernel': Array([[3., 1.]], dtype=float32)}, 'norm': {'scale': None}}

    References:
      Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
      section 3.
    """
    named = _tree.named_leaves(params)
    leaves = dict(named)
    often = collections.Counter(path for path, _ in named)
    if not scales:
        raise ValueError("`scales` is empty. Pass {'path of a kernel': 'path of its scale'}.")
    every = {path: own for (path, _), own in zip(named, axes_of(stacked, params), strict=True)}
    scored: dict[str, jax.Array] = {}
    for kernel, scale in scales.items():
        for path in (kernel, scale):
            if path not in leaves:
                near = difflib.get_close_matches(path, leaves, n=3, cutoff=0.0)
                raise ValueError(f"there is no leaf {path!r}; the nearest paths are {near}.")
            if often[path] > 1:
                raise ValueError(
                    f"two leaves have the path {path!r}, so it does not say which is meant. Rename "
                    "one of their keys."
                )
            if not _tree.is_floating(leaves[path]):
                raise TypeError(f"only floating leaves have a score; {path!r} is not floating.")
        _tree.check_finite({scale: leaves[scale]}, what="scales")
        along = axis if isinstance(axis, int) else axis.get(kernel)
        axes = every[kernel], every[scale]
        scored[kernel] = _broadcast(kernel, leaves[kernel], scale, leaves[scale], along, axes)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: scored.get(_tree.path_string(path)), params, is_leaf=_tree.is_absent
    )


def _broadcast(
    kernel: str,
    weight: Any,
    scale: str,
    gamma: Any,
    axis: int | None,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
) -> jax.Array:
    ours, theirs = axes
    whole, shape = np.shape(weight), layer_shape(np.shape(weight), ours)
    if axis is None or not -len(shape) <= axis < len(shape):
        raise ValueError(f"`axis` gives {axis} for {kernel!r} of shape {shape}. Pass a valid axis.")
    stacks = tuple(whole[a] for a in ours)
    found = (*(np.shape(gamma)[a] for a in theirs), *layer_shape(np.shape(gamma), theirs))
    if found != (*stacks, shape[axis]):
        of = f", of layers {list(stacks)} stacked along {list(ours)}" if ours else ""
        raise ValueError(
            f"the scale {scale!r} has shape {np.shape(gamma)}, but {kernel!r} of shape {whole} has "
            f"{shape[axis]} channels along axis {axis}{of}. Pass the norm that follows it, `axis`, "
            "or `stacked` for both."
        )
    aligned = [1] * len(shape)
    aligned[axis] = shape[axis]
    layers = [-1] if ours else []
    front = to_front(jnp.abs(jnp.asarray(gamma)), theirs).reshape([*layers, *aligned])
    return from_front(jnp.broadcast_to(front, (*front.shape[: len(layers)], *shape)), whole, ours)
