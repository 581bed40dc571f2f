"""LAMP: norms of channels, each over those that would outlive it in its layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _eager
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Member
from jaxprune.structured.scores._members import (
    Members,
    OverMembers,
    check_combination,
    combined,
    counted,
)
from jaxprune.structured.scores._unit_rows import arrays_of, modulus, scored, unit_rows


def lamp(
    groups: ChannelGroups,
    params: PyTree,
    *,
    members: Members = "out",
    over_members: OverMembers = "mean",
    scales: Mapping[str, Any] | None = None,
    skip: Sequence[str] = (),
) -> tuple[jax.Array | None, ...]:
    r"""Scores every channel by its share of what is left of its layer when it goes.

    $$\mathrm{score}_u = \frac{n_u}{\sum_{v \ge u} n_v}, \qquad n_u = \lVert w[u] \rVert_2^2,$$

    over the channels v of the same layer that go after u (a larger norm, or the same and a larger
    index). The best channel of a layer has the score 1, so that one threshold for the whole network
    (`globally`) leaves none empty. This is the layer-adaptive score of weights, on channels.

    Where several kernels make a channel, ``over_members`` makes one norm of theirs. Layers whose
    channels a concatenation puts side by side are ranked each by itself.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped.
      members: see `magnitude`.
      over_members: see `magnitude`; of the squared norms.
      scales: of quantised weights, see `magnitude`.
      skip: see `magnitude`.

    Returns:
      One array a group, float32 at least, ``[size of the group]``, in [0, 1].

    Raises:
      ValueError: see `magnitude`.
      TypeError: see `magnitude`.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, -3.0, 2.0]]), "b": jnp.ones((3, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> [(14 * x).tolist() for x in jp.structured.lamp(groups, params)]  # 1 of 14, 4 of 13
      [[1.0, 14.0, 4.307692527770996]]

    References:
      Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, equation 2;
      Fang et al., DepGraph, CVPR 2023, whose codes put it on channels.
    """
    check_combination(members, over_members, None)
    arrays = arrays_of(groups, params)
    found = counted(groups, members, skip)

    def scores(arrays: dict[str, Any]) -> tuple[jax.Array | None, ...]:
        def one(i: int, m: Member) -> jax.Array:
            return jnp.sum(jnp.square(unit_rows(modulus(arrays[m.path]), groups[i], m)), axis=1)

        results = list(combined(found, one, over_members, None))
        for part in groups.parts:
            norms = results[part.group]
            if norms is not None and not found.skipped[part.group][part.units].any():
                results[part.group] = norms.at[part.units].set(_shares(norms[part.units]))
        return tuple(results)

    counting = itertools.chain(*found.members)
    return _eager.computed(scores, scored(arrays, counting, scales=scales, integers=True))


def _shares(norms: jax.Array) -> jax.Array:
    order = jnp.argsort(norms, stable=True)
    ranked = norms[order]
    rest = jnp.cumsum(ranked[::-1])[::-1]
    share = ranked / jnp.where(rest > 0, rest, jnp.ones_like(rest))
    return jnp.zeros_like(norms).at[order].set(share)
