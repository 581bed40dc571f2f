"""HRank: channels whose feature maps have a low rank carry little information."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, check_params
from jaxprune.structured._named import layer_of, skipped_units
from jaxprune.structured.analysis._graph import build, struct
from jaxprune.structured.scores._feature_maps import Reading, feature_maps, readings


def hrank(
    groups: ChannelGroups,
    apply: Callable[..., Any],
    params: PyTree,
    batches: Iterable[Any],
    *,
    skip: Sequence[str] = (),
) -> tuple[jax.Array | None, ...]:
    r"""Scores every channel by the mean rank of its feature maps.

    $$\mathrm{score}_u = \frac{1}{N} \sum_{n=1}^{N} \operatorname{rank} x_n[u], \qquad
      x_n[u] \in \mathbb{R}^{H \times W},$$

    over N calibration images (the paper takes 500), where x is what reads channel u: the input of a
    convolution, or of a sum, mean or maximum over the image before a dense layer. Where several
    read it (the blocks of a stage that shares a shortcut) the mean goes over them, too. The paper's
    codes take ranks directly behind the ReLU, which is the same unless pooling comes in between.

    The rank counts singular values above ``max(H, W) * eps`` times the largest, in float32 at
    least, as `numpy.linalg.matrix_rank`.

    Args:
      groups: from `channel_groups`.
      apply: the function that was grouped, in inference mode.
      params: the parameters that were grouped.
      batches: iterable of example inputs: each a tuple of the ``*inputs`` of ``apply``, or its one
        input. Compiled once per shape. All feature maps of a batch are held at once.
      skip: paths, as in `ratios`, of layers to leave out; their score is `None` where that is a
        whole group, infinity where other layers make channels of the group, too. `select` keeps
        both whole.

    Returns:
      One array a group, ``[size of the group]``, `None` for groups that are skipped whole.

    Raises:
      ValueError: if there is no batch, if other channels hang together than in ``groups``, or if no
        convolution and no pooling over the image reads some channel of a group outside of loops and
        branches: that of a dense layer, or of images flattened into one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def conv(x, kernel):
      ...     return jax.lax.conv(x, kernel, (1, 1), "SAME")
      >>> def apply(params, x):
      ...     return conv(conv(x, params["a"]), params["b"])
      >>> params = {"a": jnp.array([[[[1.0]]], [[[0.0]]]]), "b": jnp.ones((1, 2, 1, 1))}
      >>> images = jnp.array([[[[1.0, 1.0], [1.0, 1.0]]], [[[1.0, 0.0], [0.0, 1.0]]]])
      >>> groups = jp.structured.channel_groups(apply, params, images)
      >>> jp.structured.hrank(groups, apply, params, [images])
      (Array([1.5, 0. ], dtype=float32),)

    References:
      Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, equation 4.
    """
    check_params(groups, params)
    left_out = skipped_units(groups, skip)
    skipped = {i for i, units in enumerate(left_out) if units.all()}
    known: dict[Any, tuple[list[Reading], Callable[..., list[jax.Array]]]] = {}
    total = [np.zeros(group.size) for group in groups]
    number = [np.zeros(group.size) for group in groups]
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        leaves, treedef = jax.tree.flatten(inputs)
        key = treedef, tuple((struct(x).shape, struct(x).dtype) for x in leaves)
        if key not in known:
            known[key] = _maps(groups, apply, params, inputs, skipped)
        found, maps = known[key]
        for reading, x in zip(found, maps(params, inputs), strict=True):
            ranks = np.asarray(_rank(x), np.float64).sum(1)
            for i, (where, units) in reading.units.items():
                np.add.at(total[i], units, ranks[where])
                np.add.at(number[i], units, x.shape[1])
    if not known:
        raise ValueError(
            "`batches` is empty. Pass at least one batch (a used-up iterator has none)."
        )
    scores: list[jax.Array | None] = []
    for i, group in enumerate(groups):
        if i in skipped:
            scores.append(None)
            continue
        without = (number[i] == 0) & ~left_out[i]
        if without.any():
            unit = int(np.flatnonzero(without)[0])
            raise ValueError(
                f"channel {unit} of {group.name!r} has no feature map: no convolution and no "
                "pooling over the image reads it, outside of loops and branches. Leave the layer "
                f"out: skip=[{layer_of(groups, i, unit)!r}]."
            )
        mean = np.where(left_out[i], np.inf, total[i] / np.maximum(number[i], 1))
        scores.append(jax.device_put(mean.astype(np.float32)))
    return tuple(scores)


# Not compiled into one program with the network: that of VGG-16, with a decomposition for each of
# its thirteen convolutions, never ended in XLA's CPU backend (jaxlib 0.10.2, two cores).
@jax.jit
def _rank(maps: jax.Array) -> jax.Array:
    return jnp.linalg.matrix_rank(maps)


def _maps(
    groups: ChannelGroups,
    apply: Callable[..., Any],
    params: PyTree,
    inputs: Sequence[Any],
    skip: Container[int],
) -> tuple[list[Reading], Callable[..., list[jax.Array]]]:
    """What is read with inputs of these shapes, and a function that returns the maps."""
    graph = build(apply, params, inputs)
    ours = [(group.name, group.size, [m.path for m in group.members]) for group in groups]
    now = [(group.name, group.size, [m.path for m in group.members]) for group in graph.groups]
    if ours != now:
        shapes = [np.shape(x) for x in jax.tree.leaves(tuple(inputs))]
        raise ValueError(
            f"with inputs of shapes {shapes} other channels hang together than in `groups`. Group "
            "this function with inputs of these shapes."
        )
    found = readings(graph, skip=skip)

    @jax.jit
    def maps(params: PyTree, inputs: Any) -> list[jax.Array]:
        return feature_maps(graph, found, jax.tree.leaves((params, inputs)))

    return list(found.values()), maps
