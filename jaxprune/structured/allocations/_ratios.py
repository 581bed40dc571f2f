"""Ratios: a fraction for each layer that is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jaxprune._count import check_sparsity
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.allocations._allocation import Allocation, Count, Pool, counting, refused
from jaxprune.structured.allocations._claims import claims, pools_of

# The keys of a mapping are invariant.
Fractions: TypeAlias = (
    Mapping[str, float] | Mapping[tuple[str, ...], float] | Mapping[str | tuple[str, ...], float]
)


def ratios(fractions: Fractions, *, count: Count = "round") -> Allocation:
    """Removes a given fraction of the channels of each layer that is named; others keep all.

    Args:
      fractions: ``{path: fraction removed}``; a path of a kernel that makes the channels, or a
        regular expression of whole paths, each match a count of its own. The first that matches a
        layer counts; of a layer that shares channels with one named before, an expression means the
        others. A tuple of paths shares one budget: ``{("a", "b"): 0.5}`` removes the lowest
        half of the channels of both together.
      count: see `uniform`.

    Returns:
      An allocation for `select`, which then takes no sparsity. It raises ValueError if a path makes
      no channels that can be removed, or if layers that share channels are given counts that
      contradict each other.

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
      >>> kept = jp.structured.select(groups, scores, allocation=ratios({("a", "b"): 0.5}))
      >>> [k.tolist() for k in kept]
      [[True, True], [False, False, False, True]]
    """
    if not fractions:
        raise ValueError("ratios names no path, so that nothing would be removed.")
    removed = counting(count)
    fractions = {path: check_sparsity(fraction) for path, fraction in fractions.items()}

    def allocate(groups: ChannelGroups, open_: Sequence[int], sparsity: Any) -> Sequence[Pool]:
        refused(sparsity, "ratios(...)")
        found = claims(groups, fractions, what="ratios")
        return pools_of(
            groups, found, open_, lambda f, n, _: removed(f, n), fractions=True, what="ratios"
        )

    return allocate
