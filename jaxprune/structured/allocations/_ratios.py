"""Ratios: a fraction for each group that is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxprune._count import check_sparsity
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured._named import numbers_by_group
from jaxprune.structured.allocations._allocation import Allocation, Count, Pool, counting, refused


def ratios(fractions: Mapping[str, float], *, count: Count = "round") -> Allocation:
    """Removes a given fraction of the channels of each group that is named; others keep all.

    Args:
      fractions: ``{path: fraction removed}``; a path of a kernel that makes the channels, or a
        regular expression of whole paths. The first that matches a group counts.
      count: see `uniform`.

    Returns:
      An allocation for `select`, which then takes no sparsity. It raises ValueError if a path makes
      no channels that can be removed.

    Raises:
      ValueError: if no path is given, ``count`` is unknown, or a fraction lies outside [0, 1).
      TypeError: if a fraction is no number.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]
      >>> params = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 4)), "c": jnp.ones((4, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> scores = [jnp.array([9.0, 8.0]), jnp.array([1.0, 2.0, 3.0, 4.0])]
      >>> kept = jp.structured.select(groups, scores, allocation=ratios({"b": 0.25}))
      >>> [k.tolist() for k in kept]
      [[True, True], [False, True, True, True]]
    """
    if not fractions:
        raise ValueError("ratios names no path, so that nothing would be removed.")
    removed = counting(count)
    fractions = {path: check_sparsity(fraction) for path, fraction in fractions.items()}

    def allocate(groups: ChannelGroups, open_: Sequence[int], sparsity: Any) -> Sequence[Pool]:
        refused(sparsity, "ratios(...)")
        found = numbers_by_group(groups, fractions, what="ratios")
        return [Pool((i,), removed(found[i], groups[i].size)) for i in open_ if i in found]

    return allocate
