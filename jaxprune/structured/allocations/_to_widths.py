"""Widths: how many channels each layer that is named keeps."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.allocations._allocation import Allocation, Pool, refused
from jaxprune.structured.allocations._claims import claims, pools_of


def to_widths(kept: Mapping[str, int]) -> Allocation:
    """Keeps a given number of channels of each layer that is named; others keep all.

    Args:
      kept: ``{path: channels that stay}``; paths as in `ratios`. See `pfec` for published numbers.

    Returns:
      An allocation for `select`, which then takes no sparsity. It raises ValueError if a path makes
      no channels that can be removed, or has fewer than are to stay, or if layers that share
      channels are given widths that contradict each other.

    Raises:
      TypeError: if a number is no integer.
      ValueError: if no path is given, or a number is below 1.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]
      >>> params = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 4)), "c": jnp.ones((4, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> scores = [jnp.array([9.0, 8.0]), jnp.array([1.0, 2.0, 3.0, 4.0])]
      >>> kept = jp.structured.select(groups, scores, allocation=to_widths({"b": 1}))
      >>> [k.tolist() for k in kept]
      [[True, True], [False, False, False, True]]
    """
    if not kept:
        raise ValueError("to_widths names no path, so that nothing would be removed.")
    for path, width in kept.items():
        if isinstance(width, bool) or not isinstance(width, numbers.Integral):
            raise TypeError(f"to_widths holds whole channels; got {width!r} for {path!r}.")
        if width < 1:
            raise ValueError(f"to_widths keeps at least one channel; got {width} for {path!r}.")

    def allocate(groups: ChannelGroups, open_: Sequence[int], sparsity: Any) -> Sequence[Pool]:
        refused(sparsity, "to_widths(...)")
        found = claims(groups, kept, what="to_widths")
        for claim in found:
            if claim.value > claim.size:
                raise ValueError(
                    f"to_widths keeps {claim.value} channels of {claim.name!r}, which has "
                    f"{claim.size}."
                )
        return pools_of(
            groups, found, open_, lambda width, _, n: n - int(width), fractions=False,
            what="to_widths",
        )  # fmt: skip

    return allocate
