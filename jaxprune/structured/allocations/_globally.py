"""Global: one threshold for the channels of the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxprune._count import count
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.allocations._allocation import Allocation, Pool, needed


def globally() -> Allocation:
    """Counts all channels together: exactly ``round(sparsity * n)`` of all n go.

    Scores must compare across groups: those of `taylor` and `norm_scale` do; of `magnitude` ask for
    ``normalize="mean"``.

    Returns:
      An allocation for `select`.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]
      >>> params = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 4)), "c": jnp.ones((4, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> scores = [jnp.array([9.0, 8.0]), jnp.array([1.0, 2.0, 3.0, 4.0])]
      >>> [k.tolist() for k in jp.structured.select(groups, scores, 0.5, allocation=globally())]
      [[True, True], [False, False, False, True]]
    """

    def allocate(groups: ChannelGroups, open_: Sequence[int], sparsity: Any) -> Sequence[Pool]:
        s = needed(sparsity, "globally()")
        return [Pool(tuple(open_), count(s, sum(groups.parts[i].size for i in open_)))]

    return allocate
