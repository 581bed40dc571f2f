"""A slow mask maker, written from the definitions with Python numbers and one sort."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np


def exact_count(sparsity: float, n: int) -> int:
    """round-half-even(sparsity * n) in exact rational arithmetic."""
    return round(Fraction(sparsity) * n)


def order(value) -> tuple[int, float]:
    """NaN of either sign last, everything else by value; -0.0 equals 0.0."""
    value = float(value)
    return (1, 0.0) if value != value else (0, value)


def remove_lowest(leaves, k, within=None):
    """Masks that drop the k lowest of several arrays; ties by index, what is gone goes first."""
    entries = []
    position = 0
    for i, leaf in enumerate(leaves):
        gone = np.zeros(leaf.shape, bool) if within is None else ~within[i]
        for j, value in enumerate(np.asarray(leaf, np.float64).reshape(-1)):
            entries.append((not gone.reshape(-1)[j], order(value), position, i, j))
            position += 1
    entries.sort()
    already = 0 if within is None else sum(int((~w).sum()) for w in within)
    masks = [np.ones(leaf.size, bool) for leaf in leaves]
    for _, _, _, i, j in entries[: max(k, already)]:
        masks[i][j] = False
    return [mask.reshape(leaf.shape) for mask, leaf in zip(masks, leaves, strict=True)]


def remove_lowest_limited(leaves, k, within, least, most):
    """As `remove_lowest`; each leaf loses its `least` lowest in any case, and at most `most`."""
    free, forced = [], []
    masks = [np.ones(leaf.size, bool) for leaf in leaves]
    position = itertools.count()
    for i, leaf in enumerate(leaves):
        flat = np.asarray(leaf, np.float64).reshape(-1)
        there = np.ones(leaf.size, bool) if within is None else within[i].reshape(-1)
        ranked = sorted(
            (bool(there[j]), order(x), next(position), i, j) for j, x in enumerate(flat)
        )
        gone = int((~there).sum())
        forced += ranked[: max(least[i], gone)]
        free += ranked[max(least[i], gone) : max(most[i], gone)]
    free.sort()
    for *_, i, j in forced + free[: max(k - len(forced), 0)]:
        masks[i][j] = False
    return [mask.reshape(leaf.shape) for mask, leaf in zip(masks, leaves, strict=True)]


# How a total is spread. Leaves keep clip(e * a_i, low_i, high_i).


def real_shares(proportions: Sequence[Fraction], low, high, total: int) -> list[Fraction]:
    """The exact solution, by fixing whoever is beyond a limit until nobody is (water filling)."""
    a = [Fraction(x) for x in proportions]

    def kept(e):
        return [min(max(e * p, lo), hi) for p, lo, hi in zip(a, low, high, strict=True)]

    bends = sorted({Fraction(x) / p for x, p in zip([*low, *high], [*a, *a], strict=True)})
    if total >= sum(high):
        return [Fraction(x) for x in high]
    for left, right in itertools.pairwise(bends):
        before, after = sum(kept(left)), sum(kept(right))
        if before <= total <= after and after > before:
            return kept(left + (total - before) / (after - before) * (right - left))
    return [Fraction(x) for x in low]


def largest_remainder(real: Sequence[Fraction], total: int, tolerance=Fraction(0)) -> list[int]:
    """Integers next to real numbers that add up to the total; ties to the lowest index."""
    kept = [math.floor(x + tolerance) for x in real]
    by_remainder = sorted(range(len(real)), key=lambda i: (kept[i] - real[i], i))
    for i in by_remainder[: total - sum(kept)]:
        kept[i] += 1
    return kept


def shared_removal(proportions, sizes, removed, least, most) -> list[int]:
    """How many entries each leaf loses of a total, kept ones standing in given proportions."""
    low = [n - m for n, m in zip(sizes, most, strict=True)]
    high = [n - m for n, m in zip(sizes, least, strict=True)]
    total = sum(sizes) - removed
    kept = largest_remainder(real_shares(proportions, low, high, total), total)
    return [n - k for n, k in zip(sizes, kept, strict=True)]


class Allocation(NamedTuple):
    """An allocation in the oracle's words.

    Attributes:
      kind: "globally", "uniform" (each leaf its own round) or "shared" (the total is exact).
      proportions: ``shape -> number``, of "shared": the density is e times that.
      least: fraction that each leaf loses at least.
      most: fraction that each leaf loses at most; `None` for no limit.
      fixed: fraction that a leaf loses, `None` where it shares; instead of least and most.
    """

    kind: str
    proportions: Any = lambda shape: Fraction(1)
    least: Sequence[float] | None = None
    most: Sequence[float | None] | None = None
    limited: bool = False

    def limits(self, sizes):
        least = self.least or [0.0] * len(sizes)
        most = self.most or [None] * len(sizes)
        return (
            [exact_count(x, n) for x, n in zip(least, sizes, strict=True)],
            [n if x is None else exact_count(x, n) for x, n in zip(most, sizes, strict=True)],
        )

    def possible(self, sparsity, sizes) -> bool:
        least, most = self.limits(sizes)
        return sum(least) <= exact_count(sparsity, sum(sizes)) <= sum(most)

    def each(self, sparsity, sizes, shapes) -> list[int]:
        """What each leaf loses, of an allocation that is not global."""
        if self.kind == "uniform":
            return [exact_count(sparsity, n) for n in sizes]
        a = [self.proportions(s) * max(n, 1) for s, n in zip(shapes, sizes, strict=True)]
        removed = exact_count(sparsity, sum(sizes))
        return shared_removal(a, sizes, removed, *self.limits(sizes))

    def tied(self, sparsity, sizes, shapes) -> bool:
        """Whether equal remainders meet where the last entry is given."""
        if self.kind != "shared":
            return False
        a = [self.proportions(s) * max(n, 1) for s, n in zip(shapes, sizes, strict=True)]
        least, most = self.limits(sizes)
        low = [n - m for n, m in zip(sizes, most, strict=True)]
        high = [n - m for n, m in zip(sizes, least, strict=True)]
        total = sum(sizes) - exact_count(sparsity, sum(sizes))
        real = real_shares(a, low, high, total)
        remainders = sorted((x - math.floor(x) for x in real), reverse=True)
        missing = total - sum(map(math.floor, real))
        return 0 < missing < len(real) and remainders[missing - 1] == remainders[missing]

    def remove(self, leaves, sparsity, within, shapes):
        sizes = [leaf.size for leaf in leaves]
        if self.kind == "globally":
            total = exact_count(sparsity, sum(sizes))
            return remove_lowest_limited(leaves, total, within, *self.limits(sizes))
        counts = self.each(sparsity, sizes, shapes)
        return [
            remove_lowest([leaf], k, None if within is None else [within[i]])[0]
            for i, (leaf, k) in enumerate(zip(leaves, counts, strict=True))
        ]


# Patterns: a group is the list of the indices of its weights.


def groups_along(shape, axes, lengths):
    """All whole groups, in C order of the groups."""
    axes = [a % len(shape) for a in axes]
    cut = dict(zip(axes, lengths, strict=True))
    number = [size // cut.get(a, 1) for a, size in enumerate(shape)]
    for corner in itertools.product(*map(range, number)):
        yield [
            tuple(
                corner[a] * cut[a] + inner[axes.index(a)] if a in cut else corner[a]
                for a in range(len(shape))
            )
            for inner in itertools.product(*map(range, lengths))
        ]


def channel_groups(shape, axis):
    """The weights of each channel."""
    axis %= len(shape)
    for c in range(shape[axis]):
        yield [i for i in itertools.product(*map(range, shape)) if i[axis] == c]


def keep_best(score, n, axis, m, within=None):
    """Of every m along an axis keep the n highest: remove, one by one, the lowest that is left."""
    mask = np.ones(score.shape, bool) if within is None else within.copy()
    for group in groups_along(score.shape, [axis], [m]):
        left = sorted((order(score[i]), j, i) for j, i in enumerate(group) if mask[i])
        for *_, i in left[: max(len(left) - n, 0)]:
            mask[i] = False
    return mask


NORMS = {
    "l1": sum,
    "l2": lambda x: math.sqrt(sum(v * v for v in x)),
    "max": max,
    "mean": lambda x: sum(x) / len(x),
}


def group_scores(score, groups, norm, within=None):
    """One score a group; what is gone counts as 0. And which groups have a weight left."""
    there = np.ones(score.shape, bool) if within is None else within
    values = [NORMS[norm]([float(score[i]) if there[i] else 0.0 for i in g]) for g in groups]
    return np.array(values), np.array([any(there[i] for i in g) for g in groups], bool)


def spread(kept, groups, shape, within=None):
    """The mask of the weights from that of the groups."""
    mask = np.ones(shape, bool) if within is None else within.copy()
    for keep, group in zip(kept, groups, strict=True):
        if not keep:
            for i in group:
                mask[i] = False
    return mask


def lamp(score, within=None):
    """u^2 over the sum of the u^2 that are not before it, in float64."""
    flat = np.asarray(score, np.float64).reshape(-1)
    if within is not None:
        flat = np.where(within.reshape(-1), flat, 0.0)
    ranked = sorted(range(flat.size), key=lambda j: (flat[j], j))
    out = np.zeros(flat.size)
    for r, j in enumerate(ranked):
        rest = sum(flat[i] ** 2 for i in ranked[r:])
        out[j] = flat[j] ** 2 / rest if rest else 0.0
    return out.reshape(score.shape)
