"""Magnitude: the norms of what would go with a channel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _eager, _tree
from jaxprune._checks import check_choice
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Group, Member
from jaxprune.structured._named import layer_of, skipped_units
from jaxprune.structured.scores._unit_rows import arrays_of, holds, scored, unit_rows

Members: TypeAlias = Literal["first", "out", "kernels"] | Callable[[Member], bool]
OverMembers: TypeAlias = Literal["sum", "mean", "max"]

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
    normalize: Literal["mean", "max"] | None = None,
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
        ``lambda m: m.role != "along" or m.path.endswith("scale")``.
      over_members: how the norms of several members become one score: "sum", "mean" or "max", over
        the members that hold the unit.
      normalize: "mean" or "max" divides the scores of each group by their mean or largest, so that
        groups can be compared (`globally`); groups of zeros stay.
      skip: paths, as in `ratios`, of layers that get no score: `None` where that is a whole group,
        infinity where other layers make channels of the group, too; `select` keeps both whole.

    Returns:
      One array a group, float32 at least, ``[size of the group]``.

    Raises:
      ValueError: if an option is unknown, if no member that counts holds some unit of a group, or
        ``params`` are not those that were grouped; outside `jit`, if a weight is NaN or infinite.
      TypeError: if a member that counts is not a floating array.

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
    check_choice("over_members", over_members, ("sum", "mean", "max"))
    check_choice("normalize", normalize, (None, "mean", "max"))
    if not callable(members):
        check_choice("members", members, ("first", "out", "kernels"), hint="or pass a function")
    arrays = arrays_of(groups, params)
    skipped = skipped_units(groups, skip)
    chosen = [[] if skipped[i].all() else _chosen(g, members) for i, g in enumerate(groups)]
    present = [
        None if skipped[i].all() else _present(groups, i, chosen[i], members, skipped[i])
        for i in range(len(groups))
    ]

    def scores(arrays: dict[str, Any]) -> tuple[jax.Array | None, ...]:
        found = []
        for group, ours, there, out in zip(groups, chosen, present, skipped, strict=True):
            if there is None:
                found.append(None)
                continue
            norms = [_NORMS[norm](unit_rows(arrays[m.path], group, m)) for m in ours]
            found.append(_normalized(_over(norms, there, over_members), normalize, out))
        return tuple(found)

    return _eager.computed(scores, scored(arrays, itertools.chain(*chosen)))


def _over(norms: list[jax.Array], present: np.ndarray, over_members: str) -> jax.Array:
    dtype = _tree.wide_dtype(*(x.dtype for x in norms))
    table = jnp.where(present, jnp.stack([x.astype(dtype) for x in norms]), 0)
    one_each = _tree.largest(table, axis=0) if over_members == "max" else jnp.sum(table, axis=0)
    if over_members == "mean":
        # Hidden from XLA, which would multiply by the rounded reciprocal of a constant.
        number = jax.lax.optimization_barrier(jnp.asarray(np.maximum(present.sum(0), 1), dtype))
        one_each = one_each / number
    return one_each


def _chosen(group: Group, members: Members) -> list[Member]:
    if callable(members):
        return [member for member in group.members if members(member)]
    roles = ("out", "in") if members == "kernels" else ("out",)
    if not group.role("out"):  # channels that no kernel makes (positions as features) are only read
        return list(group.role("in"))
    return [member for member in group.members if member.role in roles]


def _present(
    groups: ChannelGroups, i: int, chosen: list[Member], members: Members, skipped: np.ndarray
) -> np.ndarray:
    """Which members count for which units, bool ``[members, size of the group]``."""
    group = groups[i]
    table = np.array([holds(group, member) for member in chosen], bool).reshape(-1, group.size)
    if not (table.any(0) | skipped).all():
        unit = int(np.flatnonzero(~table.any(0) & ~skipped)[0])
        there = [(m.path, m.role) for m in group.members if holds(group, m)[unit]]
        raise ValueError(
            f"no member that counts holds channel {unit} of {group.name!r}; those that hold it are "
            f"{there}. Leave the layer out, skip=[{layer_of(groups, i, unit)!r}], or take other "
            "members."
        )
    return table & (table.cumsum(0) == 1) if members == "first" else table


def _normalized(scores: jax.Array, normalize: str | None, skipped: np.ndarray) -> jax.Array:
    """Scores that compare, infinite where they are skipped."""
    if normalize is not None:
        counted = scores[np.flatnonzero(~skipped)] if skipped.any() else scores
        unit = jnp.mean(counted) if normalize == "mean" else _tree.largest(counted)
        scores = scores / jnp.where(unit > 0, unit, jnp.ones_like(unit))
    return jnp.where(skipped, jnp.inf, scores) if skipped.any() else scores
