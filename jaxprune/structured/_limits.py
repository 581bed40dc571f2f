"""Limits: how many channels every part loses, where layers may not lose all that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune._count import check_sparsity
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured._named import numbers_by_layer
from jaxprune.structured.allocations._allocation import Pool

Limit = tuple[frozenset[int], int]  # parts, and how many of their channels may go


def limits_of(groups: ChannelGroups, max_sparsity: Any) -> list[Limit]:
    """What ``max_sparsity`` of `select` allows each layer to lose.

    Raises:
      ValueError: if a fraction lies outside [0, 1], or a path makes no channels.
      TypeError: if a fraction is no number.
    """
    if max_sparsity is None:
        return []
    if isinstance(max_sparsity, Mapping):
        found = numbers_by_layer(groups, max_sparsity, what="max_sparsity")
        fractions = {k: value for k, (_, value) in found.items()}
    else:
        fractions = dict.fromkeys(range(len(groups.layers)), max_sparsity)
    limits = []
    for k, fraction in fractions.items():
        most = 1.0 if fraction == 1 else check_sparsity(fraction)
        layer = groups.layers[k]
        limits.append((frozenset(layer.parts), round(most * layer.size)))
    return limits


def taken(
    groups: ChannelGroups,
    scores: Sequence[np.ndarray | None],
    pools: Sequence[Pool],
    limits: Sequence[Limit],
) -> tuple[list[int], list[str]]:
    """Removes one channel after the other, the lowest first, as counts and limits allow.

    Args:
      groups: the groups.
      scores: for each group, infinite for channels that stay.
      pools: what is counted together.
      limits: how many channels may go of which parts; several may speak of one part.

    Returns:
      How many channels each part loses, and a note for each pool that loses fewer than it should.
    """
    # A pool's count is a limit like any other.
    bounds = [(frozenset(pool.parts), pool.removed) for pool in pools]
    room = [most for _, most in [*bounds, *limits]]
    of_part: dict[int, list[int]] = {k: [] for pool in pools for k in pool.parts}
    for n, (parts, _) in enumerate([*bounds, *limits]):
        for k in parts & of_part.keys():
            of_part[k].append(n)
    removed = [0] * len(groups.parts)
    for k in _ranked(groups, scores, list(of_part)):
        if all(room[n] for n in of_part[k]):
            removed[k] += 1
            for n in of_part[k]:
                room[n] -= 1
    notes = []
    for pool, left in zip(pools, room, strict=False):
        if left:
            names = list(dict.fromkeys(groups.parts[k].name for k in pool.parts))
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            total = sum(groups.parts[k].size for k in pool.parts)
            notes.append(
                f"{pool.removed} of {total} channels of [{shown}] would go, but at most "
                f"{pool.removed - left} may"
            )
    return removed, notes


def _ranked(
    groups: ChannelGroups, scores: Sequence[np.ndarray | None], parts: Sequence[int]
) -> list[int]:
    """The part of every channel that may go, the lowest first, then by group and channel."""
    found = []
    for k in parts:
        part = groups.parts[k]
        array = scores[part.group]
        if array is not None:
            ours = array[part.units]
            may = ours < np.inf
            unit = part.units[may]
            found.append((np.full(len(unit), k), unit, np.full(len(unit), part.group), ours[may]))
    if not found:
        return []
    which, unit, group, score = (np.concatenate(x) for x in zip(*found, strict=True))
    return which[np.lexsort((unit, group, score))].tolist()
