"""The masks of `_engine`, made with NumPy: for arrays in the memory of this process.

The same counts, the same ties, the same result, without compiling anything; the two are each
other's oracle in the tests. Scores are compared as they are, and as order-preserving integers where
there are NaN or narrow formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxprune import _host, _layers
from jaxprune._selection import limbs, on_host, ordering
from jaxprune.masks._parts import Layout, Parts
from jaxprune.masks.patterns import PatternSpec, _groups, _nm, _pattern


def masks_of(
    scores: list[np.ndarray],
    within: list[np.ndarray] | None,
    counts: Sequence[Any],
    limits: tuple[Any, Any] | None,
    layout: Layout,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Makes the masks of all leaves: arguments and results of `_engine.masks_of`, in NumPy."""
    parts = Parts([x.shape for x in scores], layout)
    layers = _layers_of(scores, layout)
    before = None if within is None else _layers_of(within, layout)
    masks, fields = _masks_of_layers(layers, before, counts, limits, layout, parts)
    out = []
    for i, (x, axes) in enumerate(zip(scores, layout.stacked, strict=True)):
        some = masks[parts.first_layer[i] :][: _layers.number(x.shape, axes)]
        if axes:
            whole = _layers.from_front(np.stack(some), x.shape, axes)
            some = [_host.empty(x.shape, whole.dtype)]
            some[0][...] = whole
        out.append(some[0])
    return out, fields


def _layers_of(leaves: list[np.ndarray], layout: Layout) -> list[np.ndarray]:
    each = zip(leaves, layout.stacked, strict=True)
    return [layer for x, own in each for layer in (_layers.to_front(x, own) if own else [x])]


def _masks_of_layers(
    scores: list[np.ndarray],
    within: list[np.ndarray] | None,
    counts: Sequence[Any],
    limits: tuple[Any, Any] | None,
    layout: Layout,
    parts: Parts,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    pools, shared, specs = layout.pools, layout.shared, layout.specs
    number = len(scores)
    before: list[np.ndarray | None] = [None] * number if within is None else list(within)
    pool_of = {i: p for p, members in enumerate(pools) for i in members}
    values, present = list(scores), list(before)
    grouped = {i: spec for i, spec in enumerate(specs) if spec is not None and spec.kept is None}
    if grouped:
        wholes = ([scores[i] for i in grouped], [before[i] for i in grouped])
        of_groups = jax.device_get(_group_scores(*wholes, tuple(grouped.values())))
        for i, (value, left) in zip(grouped, of_groups, strict=True):
            values[i], present[i] = np.asarray(value), left
    dtypes = [ordering.common_dtype([x.dtype]) for x in values]
    for members in pools:
        common = ordering.common_dtype([values[i].dtype for i in members])
        for i in members:
            dtypes[i] = common
    widened = [x.astype(dtype, copy=False) for x, dtype in zip(values, dtypes, strict=True)]
    nan_in = [_host.holds_nan(x) for x in widened]
    has_nan = [
        nan and (left is None or bool((np.isnan(x) & left).any()))
        for x, left, nan in zip(widened, present, nan_in, strict=True)
    ]
    in_integers = [nan or x.dtype.itemsize < 4 for x, nan in zip(widened, nan_in, strict=True)]
    for members in pools:
        some = any(in_integers[i] for i in members)
        for i in members:
            in_integers[i] = some
    entries = [
        on_host.Entries(
            (ordering.sort_keys_on_host(x) if integers else x).reshape(-1),
            None
            if left is None
            else left.reshape(-1).astype(np.uint8) * np.uint8(ordering.CANDIDATE),
        )
        for x, left, integers in zip(widened, present, in_integers, strict=True)
    ]
    sizes = [entry.scores.size for entry in entries]
    gone = [0 if left is None else int(left.size - np.count_nonzero(left)) for left in present]

    asked = [limbs.from_limbs(k) for k in counts]
    gone_of_pool = [sum(gone[i] for i in members) for members in pools]
    masks: list[Any] = [None] * number
    kept = [0] * number
    beyond = [False] * number
    least, most = ([limbs.from_limbs(x) for x in limit] for limit in limits or ((), ()))
    if limits is not None and shared and within is not None:
        first = [members[0] for members in pools]
        each = ([bound[i] for i in first] for bound in (least, most))
        asked = _evened(asked, gone_of_pool, *each)
    for p, members in enumerate(pools):
        if layout.units[members[0]]:
            (i,) = members
            here = present[i]
            left = None if here is None else parts.split_layer(i, here)
            rows = parts.split_layer(i, entries[i].scores.reshape(values[i].shape))
            removed, most_gone = on_host.lowest_of_rows(rows, left, asked[p])
            gone_of_pool[p] = most_gone
            masks[i] = parts.join_layer(i, np.logical_not(removed, out=removed))
            kept[i] = int(np.count_nonzero(masks[i]))
            continue
        candidates = [entries[i] for i in members]
        if limits is not None and not shared:
            candidates = [
                on_host.limited(entries[i], max(least[i], gone[i]), max(most[i], gone[i]))
                for i in members
            ]
        removed = on_host.lowest(candidates, max(asked[p], gone_of_pool[p]))
        for i, flags in zip(members, removed, strict=True):
            lost = int(np.count_nonzero(flags))
            if limits is not None:
                beyond[i] = not least[i] <= lost <= most[i]
            masks[i] = np.logical_not(flags, out=flags).reshape(values[i].shape)
            kept[i] = sizes[i] - lost
            spec = specs[i]
            if spec is not None:
                masks[i] = _pattern.spread(masks[i], scores[i].shape, spec)
                masks[i] = masks[i] if before[i] is None else masks[i] & before[i]
                kept[i] = int(np.count_nonzero(masks[i]))
    for i, spec in enumerate(specs):
        if i not in pool_of and spec is not None:
            masks[i] = _nm.keep_best_on_host(scores[i], before[i], spec, dtypes[i])
            kept[i] = int(np.count_nonzero(masks[i]))

    kept_before = [x.size for x in scores]
    if within is not None:
        kept_before = [int(np.count_nonzero(mask)) for mask in within]
    fields = [
        np.reshape(limbs.stack_limbs(numbers) if numbers else np.zeros(0, np.uint32), (-1, 2))
        for numbers in (asked, gone_of_pool, kept, kept_before)
    ]
    return masks, [*fields, np.asarray(has_nan), np.asarray(beyond)]


@partial(jax.jit, static_argnums=2)
def _group_scores(scores: Any, within: Any, specs: tuple[PatternSpec, ...]) -> Any:
    # Compiled: their sums are rounded in a way of their own, which stands written in one place.
    return [
        _groups.scores_of(x, left, spec)
        for x, left, spec in zip(scores, within, specs, strict=True)
    ]


def _evened(asked: list[int], gone: list[int], least: list[int], most: list[int]) -> list[int]:
    """As `_engine._evened`, in Python integers."""
    lacking = [max(a, g) - a if g <= m else 0 for a, g, m in zip(asked, gone, most, strict=True)]
    ends = [max(g, low) for g, low in zip(gone, least, strict=True)]
    room = [max(a, end) - end for a, end in zip(asked, ends, strict=True)]
    lack = sum(lacking)
    if lack > len(asked) or sum(room) < lack:
        return asked
    evened, rest = [], lack
    for a, more, free in zip(asked, lacking, room, strict=True):
        give = min(rest, free)
        rest -= give
        evened.append(a + more - give)
    return evened
