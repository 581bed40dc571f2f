"""Uniform: the same fraction of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.allocations._allocation import Allocation, Count, Pool, counting, needed


def uniform(*, count: Count = "round") -> Allocation:
    """Removes the same fraction of the channels of every layer.

    Layers that make the same channels (residual sums) have one count; those whose channels a
    concatenation puts side by side are counted one by one. Where layers share some of their
    channels only, these are counted by themselves.

    Args:
      count: "round" removes ``round(sparsity * n)`` of a layer's n channels; "floor_kept" keeps
        ``int(n * (1 - sparsity))``, as the codes of filter pruning do.

    Returns:
      An allocation for `select`.

    Raises:
      ValueError: if ``count`` is unknown.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]
      >>> params = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 4)), "c": jnp.ones((4, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> scores = [jnp.array([9.0, 8.0]), jnp.array([1.0, 2.0, 3.0, 4.0])]
      >>> [k.tolist() for k in jp.structured.select(groups, scores, 0.5, allocation=uniform())]
      [[True, False], [False, False, True, True]]

    References:
      Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.
    """
    removed = counting(count)

    def allocate(groups: ChannelGroups, open_: Sequence[int], sparsity: Any) -> Sequence[Pool]:
        s = needed(sparsity, "uniform()")
        return [Pool((i,), removed(s, groups.parts[i].size)) for i in open_]

    return allocate
