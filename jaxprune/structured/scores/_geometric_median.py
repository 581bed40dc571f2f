"""Geometric median: channels that the others of their group can replace go first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _eager, _tree
from jaxprune._tree import PyTree
from jaxprune.scores import geometric_median as filter_scores
from jaxprune.structured._groups import ChannelGroups, Group
from jaxprune.structured.scores._unit_rows import arrays_of, holds, real_view, scored, unit_rows


def geometric_median(
    groups: ChannelGroups, params: PyTree, *, scales: Mapping[str, Any] | None = None
) -> tuple[jax.Array, ...]:
    r"""Scores every channel by the sum of its distances to the others of its group.

    $$\mathrm{score}_u = \sum_m \sum_v \lVert w_m[u] - w_m[v] \rVert_2$$

    over the kernels m that make channels of the group and the channels v that each makes. For a
    kernel that makes a group alone this is `jaxprune.scores.geometric_median`.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped.
      scales: of quantised weights, see `magnitude`.

    Returns:
      One array a group, float32 at least, ``[size of the group]``.

    Raises:
      ValueError: if no kernel makes some channel of a group, or ``params`` are not those that were
        grouped; outside `jit`, if a weight is NaN or infinite.
      TypeError: if a kernel is no array of floating or complex numbers, or of integers of 8 bits or
        fewer.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[0.0, 1.0, 5.0]]), "b": jnp.ones((3, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> jp.structured.geometric_median(groups, params)
      (Array([6., 5., 9.], dtype=float32),)

    References:
      He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
      Acceleration, CVPR 2019, section 3.
    """
    arrays = arrays_of(groups, params)
    for group in groups:
        made = np.zeros(group.size, bool)
        for member in group.role("out"):
            made |= holds(group, member)
        if not made.all():
            unit = int(np.flatnonzero(~made)[0])
            raise ValueError(
                f"no kernel makes channel {unit} of {group.name!r}, so it has no filter to compare."
            )

    def scores(arrays: dict[str, Any]) -> tuple[jax.Array, ...]:
        return tuple(_score(arrays, group) for group in groups)

    members = (m for group in groups for m in group.role("out"))
    return _eager.computed(scores, scored(arrays, members, scales=scales, integers=True))


def _score(arrays: dict[str, Any], group: Group) -> jax.Array:
    totals = []
    for member in group.role("out"):
        there = holds(group, member)
        rows = {"kernel": unit_rows(real_view(arrays[member.path]), group, member)[there]}
        total = filter_scores(rows, axis=0)["kernel"][:, 0]
        totals.append(jnp.zeros(group.size, total.dtype).at[there].set(total))
    dtype = _tree.wide_dtype(*(x.dtype for x in totals))
    return jnp.sum(jnp.stack([x.astype(dtype) for x in totals]), axis=0)
