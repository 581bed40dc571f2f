"""What masked positions hold where that is not zero.

Once `x` is zero at its masked channels, `x - mean` holds `-mean` there: not zero, but the same at
all of them, and computed from values that the program has anyway. So a sum over the channels is
exact without them, once their number times that value is added.

In the analysis this is a **label**: along an axis, masked positions of the same label above 0 hold
the same slice. In the evaluation each value is `Held`, and gives such a slice, of size 1 along the
axis, when a reduction asks for it. Nothing is computed for labels that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.structured.analysis._tracked import Tracked

# What an operand holds at a position, beside labels above 0.
UNKNOWN, ITSELF, ZERO = 0, -1, -2

# A label for each of some axes.
Labels = Mapping[int, int]


class Held:
    """What is kept of a value, and the slices that its masked positions hold.

    Attributes:
      array: what is kept of it.
    """

    def __init__(self, at: Callable[[Labels], Any] | None, array: Any = None) -> None:
        self._at = at
        self._found: dict[frozenset[tuple[int, int]], Any] = {}
        self.array: Any = at({}) if array is None and at is not None else array

    def at(self, labels: Labels) -> Any:
        """The slice that masked positions with these labels hold, of size 1 along their axes."""
        if not labels or self._at is None:
            return self.array
        key = frozenset(labels.items())
        if key not in self._found:
            self._found[key] = self._at(labels)
        return self._found[key]


def held_constant(array: Any) -> Held:
    """A captured constant: where it has labels, all of its slices are the same."""

    def at(labels: Labels) -> Any:
        return array[tuple(slice(0, 1 if a in labels else None) for a in range(np.ndim(array)))]

    return Held(at, array)


def codes(value: Tracked, axis: int, n: int) -> np.ndarray:
    """What a value holds at masked positions of an axis of its own or of a result, int ``[n]``.

    Args:
      value: an operand.
      axis: the axis.
      n: its size, which that of a value that is repeated is not.

    Returns:
      A label, `ZERO`, `UNKNOWN`, or `ITSELF`: a scalar, or a value that is repeated.
    """
    if not value.nodes or len(value.nodes[axis]) != n:
        return np.full(n, ITSELF)
    labels = UNKNOWN if value.alike is None else value.alike[axis]
    return np.where(value.zeros[axis], ZERO, labels)


def patterns(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Labels of a result: one for each combination of what its operands hold, int ``[n]``."""
    first = [int(column[0]) if len(column) else UNKNOWN for column in columns]
    if all((column == x).all() for column, x in zip(columns, first, strict=True)):
        return np.full(len(columns[0]), int(UNKNOWN not in first))
    known = np.logical_and.reduce([column != UNKNOWN for column in columns])
    numbers = np.zeros(len(known), np.int64)
    for column in columns:
        _, ranks = np.unique(column, return_inverse=True)
        _, numbers = np.unique(numbers * (len(column) + 1) + ranks, return_inverse=True)
    return np.where(known, 1 + numbers, UNKNOWN)


def position_of(value: Tracked, axis: int, label: int) -> int:
    """A position of a label."""
    assert value.alike is not None
    return int(np.argmax(value.alike[axis] == label))


def operand_at(value: Tracked, held: Held, found: Mapping[int, int]) -> Any:
    """What an operand holds at masked positions, from the codes of some of its axes."""
    labels = {axis: code for axis, code in found.items() if code not in (ITSELF, ZERO)}
    if ZERO not in found.values():
        return held.at(labels)
    shape = [1 if a in found else n for a, n in enumerate(np.shape(held.array))]
    return jnp.zeros(shape, held.array.dtype)


def counts(column: np.ndarray, gone: np.ndarray) -> dict[int, int]:
    """How many positions are gone, by what they hold."""
    found, numbers = np.unique(column[gone], return_counts=True)
    return dict(zip(found.tolist(), numbers.tolist(), strict=True))
