"""Selection: which channels stay, by their scores."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune import _tree
from jaxprune._count import check_sparsity
from jaxprune.structured._groups import ChannelGroups, Group
from jaxprune.structured._named import group_numbers, numbers_by_group
from jaxprune.structured.allocations._allocation import Allocation, Pool
from jaxprune.structured.allocations._uniform import uniform


def select(
    groups: ChannelGroups,
    scores: Sequence[Any],
    sparsity: float | None = None,
    *,
    allocation: Allocation | None = None,
    max_sparsity: float | Mapping[str, float] | None = None,
    round_to: int = 1,
    skip: Sequence[str] = (),
) -> tuple[np.ndarray, ...]:
    """Chooses the channels that stay: those with the highest scores.

    The allocation says which groups are counted together and how many of their channels go; each
    such pool loses its lowest. Counts are exact, ties lose the lowest index first (order of the
    groups, then of the channels). Every parameter keeps a channel at least, its best, and every
    group its limit of ``max_sparsity``: what that saves, the other groups of its pool make up for,
    so that the pool's count holds.

    Runs on the host: what stays decides shapes.

    Args:
      groups: from `channel_groups`.
      scores: one array a group, ``[size of the group]``, higher stays: `magnitude`, `taylor`, ...
        `None` for a group keeps it whole, like ``skip``.
      sparsity: fraction removed of the channels, in [0, 1); `None` for an allocation that says
        itself (`ratios`, `to_widths`).
      allocation: `uniform()` if omitted; `globally()`, `isomorphic()`, `ratios(...)`,
        `to_widths(...)`, or a function of that kind.
      max_sparsity: the largest fraction that a group may lose, to the nearest channel: one number,
        or ``{path: number}`` with paths as in `ratios`.
      round_to: hardware likes multiples of 8, 16 or 128: the number of channels that stay of a
        group that loses some is rounded *up* to a multiple, or to all. So fewer go than were asked
        for, never more.
      skip: paths, as in `ratios`, of groups that lose nothing. Their channels do not count.

    Returns:
      For each group which channels stay, bool ``[size of the group]``, for
      `jaxprune.structured.masks`.

    Raises:
      ValueError: if scores do not fit the groups or hold a NaN, if a count would leave a group
        nothing or break a limit, or if a path makes no channels that can be removed.
      TypeError: if scores are traced.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, -1.0, 2.0, 4.0]]), "b": jnp.ones((4, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> scores = jp.structured.magnitude(groups, params)
      >>> kept = jp.structured.select(groups, scores, 0.5)
      >>> kept[0].tolist()
      [True, False, False, True]
      >>> masks = jp.structured.masks(groups, kept)
    """
    arrays = [_protected(*pair) for pair in zip(groups, _checked(groups, scores), strict=True)]
    skipped = group_numbers(groups, skip, what="skip")
    open_ = [i for i, x in enumerate(arrays) if x is not None and i not in skipped]
    most = [
        limit if array is None else min(limit, int((array < np.inf).sum()))
        for limit, array in zip(_most(groups, max_sparsity), arrays, strict=True)
    ]
    multiple = operator.index(round_to)
    if multiple < 1:
        raise ValueError(f"round_to is {round_to}, but must be at least 1.")
    removed = np.zeros(len(groups), np.int64)
    for pool in _pools(uniform() if allocation is None else allocation, groups, open_, sparsity):
        members = list(pool.groups)
        removed[members] = _removed(groups, [arrays[i] for i in members], pool, most)
    kept = []
    for group, array, gone in zip(groups, arrays, removed.tolist(), strict=True):
        stays = np.ones(group.size, bool)
        if array is not None and gone:
            left = min(group.size, -(-(group.size - gone) // multiple) * multiple)
            stays[np.argsort(array, kind="stable")[: group.size - left]] = False
        kept.append(stays)
    return tuple(kept)


def _protected(group: Group, scores: np.ndarray | None) -> np.ndarray | None:
    """Scores in which the best channel of every parameter is infinite: something must stay of each.

    Channels that a shortcut pads or a concatenation puts side by side belong to one group, but no
    parameter has them all.
    """
    if scores is None:
        return None
    guarded = np.minimum(scores, np.finfo(np.float64).max)
    for member in group.members:
        units = np.unique(member.owners[member.owners >= 0])
        # Of equal ones the last: the first is removed first.
        guarded[units[np.flatnonzero(scores[units] == scores[units].max())[-1]]] = np.inf
    return guarded


def _removed(
    groups: ChannelGroups, scores: Sequence[Any], pool: Pool, most: Sequence[int]
) -> np.ndarray:
    """How many channels each group of a pool loses."""
    limits = [most[i] for i in pool.groups]
    if not 0 <= pool.removed <= sum(limits):
        names = [groups[i].name for i in pool.groups]
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        total = sum(groups[i].size for i in pool.groups)
        raise ValueError(
            f"{pool.removed} of {total} channels of [{shown}] would go, but at most {sum(limits)} "
            "may: each parameter keeps one at least, and max_sparsity may ask for more. Remove "
            "less, or skip small groups."
        )
    owner = np.repeat(np.arange(len(scores)), [len(x) for x in scores])
    order = np.argsort(np.concatenate([np.zeros(0), *scores]), kind="stable")
    ranked = owner[order]
    # Beyond its limit a group has no candidates.
    may = np.zeros(len(order), bool)
    for k, limit in enumerate(limits):
        may[np.flatnonzero(ranked == k)[:limit]] = True
    return np.bincount(ranked[may][: pool.removed], minlength=len(scores))


def _checked(groups: ChannelGroups, scores: Sequence[Any]) -> list[np.ndarray | None]:
    if len(scores) != len(groups):
        raise ValueError(f"there are {len(groups)} groups, but {len(scores)} arrays of scores.")
    arrays: list[np.ndarray | None] = []
    for group, x in zip(groups, scores, strict=True):
        if _tree.is_traced(x):
            raise TypeError("scores decide shapes: they cannot be traced. Select outside of jit.")
        if x is None:
            arrays.append(None)
            continue
        array = np.asarray(x, np.float64)  # exact for every floating dtype
        if array.shape != (group.size,):
            raise ValueError(
                f"{group.name!r} has {group.size} channels, but its scores have shape "
                f"{array.shape}."
            )
        if np.isnan(array).any():
            unit = int(np.flatnonzero(np.isnan(array))[0])
            raise ValueError(f"the score of channel {unit} of {group.name!r} is NaN.")
        arrays.append(array)
    return arrays


def _most(groups: ChannelGroups, max_sparsity: Any) -> list[int]:
    rules = max_sparsity if isinstance(max_sparsity, Mapping) else {}
    found = numbers_by_group(groups, rules, what="max_sparsity")
    everywhere = 1.0 if isinstance(max_sparsity, Mapping) or max_sparsity is None else max_sparsity
    limits = [found.get(i, everywhere) for i in range(len(groups))]
    fractions = [1.0 if limit == 1 else check_sparsity(limit) for limit in limits]
    return [min(round(f * g.size), g.size - 1) for f, g in zip(fractions, groups, strict=True)]


def _pools(
    allocation: Allocation, groups: ChannelGroups, open_: Sequence[int], sparsity: Any
) -> list[Pool]:
    try:
        inspect.signature(allocation).bind(groups, open_, sparsity)
    except TypeError:
        raise TypeError(
            "an allocation of channels is one of jp.structured.globally(), uniform(), "
            "isomorphic(), ratios(...), to_widths(...); those of jp.masks are for weights. "
            f"Got {allocation!r}."
        ) from None
    pools = list(allocation(groups, open_, sparsity))
    counted = [i for pool in pools for i in pool.groups]
    if len(set(counted)) != len(counted) or not set(counted) <= set(open_):
        raise ValueError(
            f"the allocation counts the groups {sorted(counted)}; it may count each of "
            f"{list(open_)} once."
        )
    return pools
