"""Selection: which channels stay, by their scores."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxprune import _tree
from jaxprune._checks import check_choice
from jaxprune.structured._groups import ChannelGroups, Group
from jaxprune.structured._limits import limits_of, taken
from jaxprune.structured._named import parts_named
from jaxprune.structured._selection import Selection
from jaxprune.structured.allocations._allocation import Allocation, Pool
from jaxprune.structured.allocations._uniform import uniform
from jaxprune.structured.budgets._budget import Budget
from jaxprune.structured.budgets._search import check_alone, met


def select(
    groups: ChannelGroups,
    scores: Sequence[Any],
    sparsity: float | None = None,
    *,
    budget: Budget | None = None,
    allocation: Allocation | None = None,
    max_sparsity: float | Mapping[str, float] | None = None,
    round_to: int = 1,
    skip: Sequence[str] = (),
    on_limit: Literal["stop", "error"] = "stop",
) -> Selection:
    """Chooses the channels that stay: those with the highest scores.

    The allocation says which layers are counted together and how many of their channels go; each
    such pool loses its lowest. Counts are exact, ties lose the lowest index first (order of the
    groups, then of the channels). Every parameter keeps a channel at least, its best, and every
    layer its limit of ``max_sparsity``: what that saves, the other layers of its pool make up for,
    so that the pool's count holds.

    A path means the layer at that path: the channels that it makes. Where layers make the same
    channels (residual sums) they have one count; where a concatenation puts the channels of several
    side by side, each has its own, although they are one group. The report of the groups says
    which.

    Runs on the host: what stays decides shapes.

    Args:
      groups: from `channel_groups`.
      scores: one array a group, ``[size of the group]``, higher stays: `magnitude`, `taylor`, ...
        `None` for a group keeps it whole, like ``skip``, and so does infinity for all channels of a
        layer.
      sparsity: fraction removed of the channels, in [0, 1); `None` for an allocation that says
        itself (`ratios`, `to_widths`), and with a budget.
      budget: `macs(0.5)`, `parameters(...)`, `bytes(...)`, `latency(...)`: as much is removed as it
        takes for what is left to meet the budget, by 1 % or as little as possible. The notes say
        what is left.
      allocation: `uniform()` if omitted; `globally()`, `isomorphic()`, `ratios(...)`,
        `to_widths(...)`, or a function of that kind.
      max_sparsity: the largest fraction that a layer may lose, to the nearest channel: one number
        for every layer, or ``{path: number}`` with paths as in `ratios`.
      round_to: hardware likes multiples of 8, 16 or 128: the number of channels that stay of a
        layer that loses some is rounded *up* to a multiple, or to all. So fewer go than were asked
        for, never more.
      skip: paths, as in `ratios`, of layers that lose nothing. Their channels do not count.
      on_limit: what happens if limits leave too few channels to go, or a budget is out of reach:
        "stop" removes as many as may go, and the result has a note; "error" raises.

    Returns:
      For each group which channels stay, bool ``[size of the group]``, for
      `jaxprune.structured.masks`; a tuple with ``notes``, see `Selection`.

    Raises:
      ValueError: if scores do not fit the groups or hold a NaN, with ``on_limit="error"`` if a
        count would leave a layer nothing or break a limit, or a budget is out of reach; if a path
        makes no channels that can be removed, or there are a budget and a sparsity.
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
      >>> kept = jp.structured.select(groups, scores, budget=jp.structured.macs(0.5))
      >>> kept[0].tolist(), kept.notes
      ([True, False, False, True], ('4 MACs of 8 are left (50.0 %); at most 4 were asked for',))
    """
    check_choice("on_limit", on_limit, ("stop", "error"))
    multiple = operator.index(round_to)
    if multiple < 1:
        raise ValueError(f"round_to is {round_to}, but must be at least 1.")
    raw = _checked(groups, scores)
    skipped = parts_named(groups, skip, what="skip")
    open_ = [k for k in range(len(groups.parts)) if k not in skipped and _scored(groups, raw, k)]
    arrays = [_protected(*pair) for pair in zip(groups, raw, strict=True)]
    limits = limits_of(groups, max_sparsity)
    allocate = uniform() if allocation is None else allocation

    def chosen(sparsity: float | None) -> Selection:
        pools = _pools(allocate, groups, open_, sparsity)
        removed, notes = taken(groups, arrays, pools, limits)
        kept = [np.ones(group.size, bool) for group in groups]
        for part, gone in zip(groups.parts, removed, strict=True):
            array = arrays[part.group]
            if array is not None and gone:
                left = min(part.size, -(-(part.size - gone) // multiple) * multiple)
                lowest = np.argsort(array[part.units], kind="stable")[: part.size - left]
                kept[part.group][part.units[lowest]] = False
        return Selection(kept, notes)

    if budget is not None:
        check_alone(budget, sparsity, lambda: chosen(None))
        return met(budget, groups, chosen, on_limit)
    found = chosen(sparsity)
    if found.notes and on_limit == "error":
        raise ValueError(
            f"{found.notes[0]}: each parameter keeps one at least, and max_sparsity may ask for "
            "more. Remove less, or skip small groups."
        )
    return found


def _scored(groups: ChannelGroups, scores: Sequence[np.ndarray | None], k: int) -> bool:
    array = scores[groups.parts[k].group]
    return array is not None and not np.isposinf(array[groups.parts[k].units]).all()


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
    counted = [k for pool in pools for k in pool.parts]
    if len(set(counted)) != len(counted) or not set(counted) <= set(open_):
        raise ValueError(
            f"the allocation counts the parts {sorted(counted)} of groups.parts; it may count each "
            f"of {list(open_)} once."
        )
    if any(pool.removed < 0 for pool in pools):
        raise ValueError(f"the allocation removes fewer than no channels: {pools}.")
    return pools
