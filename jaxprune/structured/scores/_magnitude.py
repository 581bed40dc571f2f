"""Magnitude: the norms of what would go with a channel."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxprune import _eager
from jaxprune._checks import check_choice
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Member
from jaxprune.structured.scores._members import (
    Members,
    Normalize,
    OverMembers,
    check_combination,
    combined,
    counted,
)
from jaxprune.structured.scores._unit_rows import arrays_of, modulus, scored, unit_rows

_NORMS = {
    "l1": lambda rows: jnp.sum(jnp.abs(rows), axis=1),
    "l2": lambda rows: jnp.sqrt(jnp.sum(jnp.square(rows), axis=1)),
}


def magnitude(
    groups: ChannelGroups,
    params: PyTree,
    *,
    norm: Literal["l1", "l2"] = "l1",
    members: Members = "out",
    over_members: OverMembers = "mean",
    normalize: Normalize | None = None,
    scales: Mapping[str, Any] | None = None,
    skip: Sequence[str] = (),
) -> tuple[jax.Array | None, ...]:
    r"""Scores every channel by the norm of its weights.

    $$\mathrm{score}_u = \operatorname{mean}_{m \ni u} \lVert w_m[u] \rVert_p$$

    over the members m that hold unit u, where $w_m[u]$ are all entries of the parameter that belong
    to the unit: the whole filter of a convolution, of several positions all their entries together.
    For a channel that one convolution makes (the first one of a residual block) the defaults are
    the L1 norm of its filter, the criterion of filter pruning (PFEC); ``norm="l2"`` is that of soft
    filter pruning.

    Statistics of norms are no weights, and nothing in a tree tells them from biases and scales.
    Therefore only kernels count, unless a function says which else.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped.
      norm: "l1" or "l2".
      members: which members count: "out", all kernels that make the channel; "first", of these the
        first that holds it, in the order of the group's members; "kernels", those that read it, too
        (roles "out" and "in"); or ``members(member) -> bool``, for instance
        ``lambda m: m.role != "along" or m.path.endswith("scale")``. By name, channels that no
        kernel makes (learned tokens) have the score of those that read them, else of what holds
        them.
      over_members: how the norms of several members become one score: "sum", "mean", "max",
        "product" or "l2" (the root of the sum of squares), over the members that hold the unit.
      normalize: so that layers can be compared (`globally`): "sum", "mean" or "max" divides the
        scores of each layer by their sum, mean or largest, "standardised" takes their mean away and
        divides by their standard deviation; layers of zeros stay. Where layers share channels, each
        part that the same layers make is one.
      scales: of weights quantised to integers of 8 bits or fewer: ``{path: scale}``, a path of the
        parameters or an array that broadcasts against the weights (in tiles, if it is smaller by a
        factor). A ``scale`` (and ``zero_point``) beside a ``qvalue`` is found without. Integers
        without a scale count as they are. Complex weights count by their modulus.
      skip: paths, as in `ratios`, of layers that get no score: `None` where that is a whole group,
        infinity where other layers make channels of the group, too; `select` keeps both whole.

    Returns:
      One array a group, float32 at least, ``[size of the group]``.

    Raises:
      ValueError: if an option is unknown, if a function chooses members and none of them holds some
        unit, or if ``params`` are not those that were grouped; outside `jit`, if a weight is NaN or
        infinite.
      TypeError: if a member that counts is no array of floating or complex numbers, or of integers
        of 8 bits or fewer.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, -2.0], [0.0, 3.0]]), "b": jnp.array([[4.0], [0.0]])}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 2)))
      >>> jp.structured.magnitude(groups, params)
      (Array([1., 5.], dtype=float32),)
      >>> jp.structured.magnitude(groups, params, members="kernels", over_members="sum")
      (Array([5., 5.], dtype=float32),)

    References:
      Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1 (L1). He et al.,
      Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018, equation
      2 (L2). Fang et al., DepGraph, CVPR 2023, section 3.4 (over all members of a group).
    """
    check_choice("norm", norm, _NORMS)
    check_combination(members, over_members, normalize)
    arrays = arrays_of(groups, params)
    found = counted(groups, members, skip)

    def scores(arrays: dict[str, Any]) -> tuple[jax.Array | None, ...]:
        def one(i: int, m: Member) -> jax.Array:
            return _NORMS[norm](unit_rows(modulus(arrays[m.path]), groups[i], m))

        return combined(found, one, over_members, normalize)

    counting = itertools.chain(*found.members)
    return _eager.computed(scores, scored(arrays, counting, scales=scales, integers=True))
