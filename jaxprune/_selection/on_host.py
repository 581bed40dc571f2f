"""The k smallest of NumPy arrays in the memory of this process. Compiles nothing.

NumPy compares floats exactly, where XLA's CPU backend flushes denormals. So numbers are compared as
they are; the caller turns those with NaN, or in narrow formats, into keys first (see `ordering`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune import _host
from jaxprune._selection import ordering

# Pools from this size on are searched near the k-th score only, which a strided sample of about so
# many scores brackets; exact counts verify the bracket.
_SAMPLED_FROM, _SAMPLE = 1 << 18, 1 << 14


class Entries(NamedTuple):
    """What a leaf is selected from, flat: its weights or its groups.

    Attributes:
      scores: numbers of one ordered dtype, without NaN.
      code: uint8 codes (see `ordering`), or `None` if every entry is a candidate.
    """

    scores: np.ndarray
    code: np.ndarray | None


def lowest(entries: Sequence[Entries], k: int) -> list[np.ndarray]:
    """Marks the k lowest entries of a pool, among equals the first: `smallest`, in NumPy."""
    if all(entry.code is None for entry in entries):
        return _lowest_scores([entry.scores for entry in entries], k)
    # Class by class: what is gone, what must go, the candidates, what must stay.
    codes = [
        np.full(entry.scores.size, ordering.CANDIDATE, np.uint8)
        if entry.code is None
        else entry.code
        for entry in entries
    ]
    removed = [np.zeros(code.size, bool) for code in codes]
    for what in (ordering.GONE, ordering.FORCED, ordering.CANDIDATE, ordering.IMMUNE):
        here = [code == what for code in codes]
        number = sum(int(np.count_nonzero(flags)) for flags in here)
        if k >= number:
            for flags, mark in zip(here, removed, strict=True):
                mark |= flags
            k -= number
            continue
        if what == ordering.CANDIDATE:
            inside = [entry.scores[flags] for entry, flags in zip(entries, here, strict=True)]
            chosen = _lowest_scores(inside, k)
        else:  # equal among themselves
            first = zip(_first(here, k), here, strict=True)
            chosen = [mark[flags] for mark, flags in first]
        for flags, mark, low in zip(here, removed, chosen, strict=True):
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
        # Four standard deviations of a sampled quantile, as `_smallest` takes them.
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


def lowest_of_rows(scores: np.ndarray, left: np.ndarray | None, k: int) -> tuple[np.ndarray, int]:
    """Marks the k lowest entries of each row, among equals the first; those not left go first.

    Args:
      scores: numbers without NaN, ``[rows, entries]``.
      left: which entries are left, or `None` for all.
      k: how many of each row to mark; where more are gone, those.

    Returns:
      The marks, and how many entries are gone of the row that has lost the most.
    """
    rows, size = scores.shape
    gone = np.zeros(rows, int) if left is None else size - np.count_nonzero(left, axis=1)
    removed = np.zeros(scores.shape, bool) if left is None else ~left
    k = min(k, size)
    more = np.flatnonzero(gone < k)
    if not more.size:
        return removed, int(gone.max(initial=0))
    some, present = scores[more], ~removed[more]
    if left is not None:  # as many as are missing, of those that are left: row by row
        for row, x, here in zip(more, some, present, strict=True):
            places = np.flatnonzero(here)
            order = np.argsort(x[places], kind="stable")
            removed[row, places[order[: k - gone[row]]]] = True
        return removed, int(gone.max())
    threshold = np.partition(some, k - 1, axis=1)[:, k - 1 : k]
    below, equal = some < threshold, some == threshold
    missing = k - np.count_nonzero(below, axis=1, keepdims=True)
    removed[more] = below | (equal & (np.cumsum(equal, axis=1) <= missing))
    return removed, 0


def limited(entry: Entries, least: int, most: int) -> Entries:
    """Marks what must go, the lowest, and what must stay, all but the lowest."""
    (must,), (may,) = lowest([entry], least), lowest([entry], most)
    code = np.where(must, np.uint8(ordering.FORCED), np.uint8(ordering.CANDIDATE))
    code[~may] = ordering.IMMUNE
    if entry.code is not None:
        code[entry.code == ordering.GONE] = ordering.GONE
    return Entries(entry.scores, code)
