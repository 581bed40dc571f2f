"""Isomorphic: groups that are built alike are counted together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxprune import _tree
from jaxprune._count import count
from jaxprune.structured._groups import ChannelGroups, Part
from jaxprune.structured.allocations._allocation import Allocation, Pool, needed


def isomorphic() -> Allocation:
    """Counts groups together that are built alike: exactly ``round(sparsity * n)`` of each kind.

    Two groups are of one kind if they have equally many members of every role, rank and last part
    of the path: the first convolutions of all residual blocks, the hidden layers of all MLPs. Their
    scores compare where those of different kinds do not. Of concatenated channels each layer has a
    kind of its own, by the members that hold its channels.

    Returns:
      An allocation for `select`.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     for layer in ("a", "b", "c"):
      ...         x = jnp.tanh(x @ params[layer]["w"])
      ...     return x
      >>> a, b, c = jnp.ones((1, 2)), jnp.ones((2, 4)), jnp.ones((4, 1))
      >>> params = {"a": {"w": a}, "b": {"w": b}, "c": {"w": c}}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> scores = [jnp.array([9.0, 8.0]), jnp.array([7.0, 2.0, 3.0, 10.0])]
      >>> [k.tolist() for k in jp.structured.select(groups, scores, 0.5, allocation=isomorphic())]
      [[True, True], [False, False, False, True]]

    References:
      Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024, section 3.2; there, kinds are
      isomorphic computational graphs.
    """

    def kind(groups: ChannelGroups, part: Part) -> Any:
        unit = part.units[0]
        return tuple(
            sorted((m.role, len(groups.shapes[m.path]), _tree.own_name(m.path), m.axis)
                   for m in groups[part.group].members if (m.owners == unit).any())
        )  # fmt: skip

    def allocate(groups: ChannelGroups, open_: Sequence[int], sparsity: Any) -> Sequence[Pool]:
        s = needed(sparsity, "isomorphic()")
        kinds: dict[Any, list[int]] = {}
        for i in open_:
            kinds.setdefault(kind(groups, groups.parts[i]), []).append(i)
        return [
            Pool(tuple(k), count(s, sum(groups.parts[i].size for i in k))) for k in kinds.values()
        ]

    return allocate
