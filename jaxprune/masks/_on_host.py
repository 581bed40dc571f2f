"""The masks of `_engine`, made with NumPy: for arrays in the memory of this process.

The same counts, the same ties, the same result, without compiling anything; the two are each
other's oracle in the tests. NumPy compares floats exactly (XLA's CPU backend flushes denormals), so
scores are compared as they are, and only where NaN, removed weights or narrow formats come in as
order-preserving integers.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import _host
from jaxprune.masks import _groups, _keys, _limbs, _nm, _pattern
from jaxprune.masks._pattern import PatternSpec

# Pools from this size on are searched near the k-th score only, which a strided sample of about so
# many scores brackets; exact counts verify the bracket.
_SAMPLED_FROM, _SAMPLE = 1 << 18, 1 << 14


class _Entries(NamedTuple):
    """What a leaf is selected from, flat: its weights or its groups.

    Attributes:
      scores: numbers of one ordered dtype, without NaN.
      code: uint8 codes (see `_keys`), or `None` if every entry is a candidate.
    """

    scores: np.ndarray
    code: np.ndarray | None


def masks_of(
    scores: list[np.ndarray],
    within: list[np.ndarray] | None,
    counts: Sequence[Any],
    limits: tuple[Any, Any] | None,
    pools: tuple[tuple[int, ...], ...],
    shared: bool,
    specs: tuple[PatternSpec | None, ...],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Makes the masks of all leaves: arguments and results of `_engine.masks_of`, in NumPy."""
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
    dtypes = [_keys.common_dtype([x.dtype]) for x in values]
    for members in pools:
        common = _keys.common_dtype([values[i].dtype for i in members])
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
        _Entries(
            (_keys.sort_keys_on_host(x) if integers else x).reshape(-1),
            None if left is None else left.reshape(-1).astype(np.uint8) * np.uint8(_keys.CANDIDATE),
        )
        for x, left, integers in zip(widened, present, in_integers, strict=True)
    ]
    sizes = [entry.scores.size for entry in entries]
    gone = [0 if left is None else int(left.size - np.count_nonzero(left)) for left in present]

    asked = [_limbs.from_limbs(k) for k in counts]
    gone_of_pool = [sum(gone[i] for i in members) for members in pools]
    masks: list[Any] = [None] * number
    kept = [0] * number
    beyond = [False] * number
    least, most = ([_limbs.from_limbs(x) for x in limit] for limit in limits or ((), ()))
    if limits is not None and shared and within is not None:
        first = [members[0] for members in pools]
        each = ([bound[i] for i in first] for bound in (least, most))
        asked = _evened(asked, gone_of_pool, *each)
    for p, members in enumerate(pools):
        candidates = [entries[i] for i in members]
        if limits is not None and not shared:
            candidates = [
                _limited(entries[i], max(least[i], gone[i]), max(most[i], gone[i])) for i in members
            ]
        removed = _lowest(candidates, max(asked[p], gone_of_pool[p]))
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
        np.reshape(_limbs.stack_limbs(numbers) if numbers else np.zeros(0, np.uint32), (-1, 2))
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


def _lowest(entries: Sequence[_Entries], k: int) -> list[np.ndarray]:
    """Marks the k lowest entries of a pool; among equals the first, as `_select.smallest` does."""
    if all(entry.code is None for entry in entries):
        return _lowest_scores([entry.scores for entry in entries], k)
    # Class by class: what is gone, what must go, the candidates, what must stay.
    codes = [
        np.full(entry.scores.size, _keys.CANDIDATE, np.uint8) if entry.code is None else entry.code
        for entry in entries
    ]
    removed = [np.zeros(code.size, bool) for code in codes]
    for what in (_keys.GONE, _keys.FORCED, _keys.CANDIDATE, _keys.IMMUNE):
        here = [code == what for code in codes]
        number = sum(int(np.count_nonzero(flags)) for flags in here)
        if k >= number:
            for flags, mark in zip(here, removed, strict=True):
                mark |= flags
            k -= number
            continue
        if what == _keys.CANDIDATE:
            inside = [entry.scores[flags] for entry, flags in zip(entries, here, strict=True)]
            lowest = _lowest_scores(inside, k)
        else:  # equal among themselves
            lowest = _first(here, k)
            lowest = [mark[flags] for mark, flags in zip(lowest, here, strict=True)]
        for flags, mark, low in zip(here, removed, lowest, strict=True):
            mark[flags] = low
        break
    return removed


def _lowest_scores(scores: Sequence[np.ndarray], k: int) -> list[np.ndarray]:
    """Marks the k lowest of flat arrays without NaN; among equals the first."""
    total = sum(x.size for x in scores)
    if k <= 0 or k >= total:
        return [np.full(x.size, k > 0) for x in scores]
    threshold = _kth(scores, k, total)
    removed = []
    for x in scores:
        flags = _host.empty(x.shape, np.dtype(bool))
        removed.append(np.less(x, threshold, out=flags))
    take = k - sum(int(np.count_nonzero(flags)) for flags in removed)
    for x, flags in zip(scores, removed, strict=True):
        if take == 0:
            break
        equal = np.flatnonzero(x == threshold)[:take]
        flags[equal] = True
        take -= equal.size
    return removed


def _kth(scores: Sequence[np.ndarray], k: int, total: int) -> Any:
    """The k-th lowest of all scores, counted from 1."""
    if total >= _SAMPLED_FROM:
        stride = total // _SAMPLE
        sample = np.sort(np.concatenate([x[::stride] for x in scores]))
        # Four standard deviations of a sampled quantile, as `_select` takes them.
        rank, margin = k * sample.size / total, 2 * sample.size**0.5 + 2
        low = sample[max(int(rank - margin), 0)]
        high = sample[min(int(rank + margin), sample.size - 1)]
        below, near = 0, []
        for x in scores:
            for part in _host.pieces(x):
                lower = part < low
                below += int(np.count_nonzero(lower))
                near.append(part[(part <= high) ^ lower])
        inside = np.concatenate(near)
        if below < k <= below + inside.size:
            return np.partition(inside, k - below - 1)[k - below - 1]
    return np.partition(np.concatenate(scores), k - 1)[k - 1]


def _first(flags: Sequence[np.ndarray], k: int) -> list[np.ndarray]:
    """The first k marks of several arrays."""
    first = []
    for here in flags:
        mark = np.zeros(here.size, bool)
        index = np.flatnonzero(here)[:k]
        mark[index] = True
        k -= index.size
        first.append(mark)
    return first


def _limited(entry: _Entries, least: int, most: int) -> _Entries:
    """Marks what must go, the lowest, and what must stay, all but the lowest."""
    (must,), (may,) = _lowest([entry], least), _lowest([entry], most)
    code = np.where(must, np.uint8(_keys.FORCED), np.uint8(_keys.CANDIDATE))
    code[~may] = _keys.IMMUNE
    if entry.code is not None:
        code[entry.code == _keys.GONE] = _keys.GONE
    return _Entries(entry.scores, code)


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
