"""A slow mask maker, written from the definitions with Python numbers and one sort."""

from fractions import Fraction

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
