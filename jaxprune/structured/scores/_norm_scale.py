"""Norm scale: network slimming's importance of a channel."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.scores._magnitude import magnitude
from jaxprune.structured.scores._members import Normalize, OverMembers


def norm_scale(
    groups: ChannelGroups,
    params: PyTree,
    *,
    name: str = "scale",
    over_members: OverMembers = "mean",
    normalize: Normalize | None = None,
    skip: Sequence[str] = (),
) -> tuple[jax.Array | None, ...]:
    r"""Scores every channel by the scale of the norm behind it.

    ``score_u = |gamma_u|``, of a network trained with an L1 penalty on its scales. Which norm
    follows which convolution is read off the groups. Where several norms scale a channel (each
    block of a stage that shares a shortcut), ``over_members`` makes one score of them.

    Scales compare across groups without more (`globally`), which is what the paper does.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped.
      name: what the scales are called, the last part of their paths but for wrappers such as
        `nnx.Param.value`: "scale" in Flax and Haiku, "weight" in Equinox.
      over_members: how several scales that hold the channel become one, see `magnitude`.
      normalize: see `magnitude`.
      skip: paths, as in `magnitude`, of layers without a norm.

    Returns:
      One array a group, float32 at least, ``[size of the group]``.

    Raises:
      ValueError: if some channel of a group has no scale, or ``params`` are not those that were
        grouped; outside `jit`, if a scale is NaN or infinite.
      TypeError: if a scale is not a floating array.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["kernel"] * params["scale"]) @ params["out"]
      >>> params = {"kernel": jnp.ones((1, 2)), "scale": jnp.array([-3.0, 1.0])}
      >>> params["out"] = jnp.ones((2, 1))
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones(1))
      >>> jp.structured.norm_scale(groups, params)
      (Array([3., 1.], dtype=float32),)

    References:
      Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
      section 3.
    """
    return magnitude(
        groups,
        params,
        members=lambda m: m.role == "along" and _tree.own_name(m.path) == name,
        over_members=over_members,
        normalize=normalize,
        skip=skip,
    )
