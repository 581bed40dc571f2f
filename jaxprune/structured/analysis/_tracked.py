"""What is known of a value while its axes are followed through a jaxpr."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxprune.structured.analysis._units import FIXED, Units

# For each axis of a value the axes of parameters that it runs over, as (leaf, axis); None for a
# value that depends on the data.
Source: TypeAlias = tuple[frozenset[tuple[int, int]], ...] | None

NONE: frozenset[tuple[int, int]] = frozenset()


class Tracked(NamedTuple):
    """A value, axis by axis and position by position.

    Attributes:
      nodes: for each axis the nodes of its positions (see `Units`), int64 ``[size]``.
      zeros: for each axis whether the slice at a position is exactly zero once all parameters of
        its unit are, bool ``[size]``. True where the position is fixed: nothing is claimed there.
      number: the value of every entry, if that is known and one for all.
      source: the parameters' axes that the value's axes run over, for parameters that were only
        rearranged or combined with each other.
      alike: for each axis labels above 0 for positions that hold the same slice once they are
        masked, 0 where that is not known, int ``[size]``; see `_alike`. `None`: nowhere known.
    """

    nodes: tuple[np.ndarray, ...]
    zeros: tuple[np.ndarray, ...]
    number: Any = None
    source: Source = None
    alike: tuple[np.ndarray, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(len(axis) for axis in self.nodes)

    def with_axes(self, axes: Sequence[int]) -> Tracked:
        """The value with only the given axes, in that order."""
        source = None if self.source is None else tuple(self.source[a] for a in axes)
        alike = None if self.alike is None else tuple(self.alike[a] for a in axes)
        nodes, zeros = (tuple(x[a] for a in axes) for x in (self.nodes, self.zeros))
        return Tracked(nodes, zeros, None, source, alike)


def fixed(units: Units, shape: Sequence[int], text: str) -> Tracked:
    """A value of which no position can vanish, and why."""
    return Tracked(
        tuple(units.new_fixed(n, text) for n in shape), tuple(np.ones(n, bool) for n in shape)
    )


def fresh(units: Units, n: int, *, zero: bool) -> tuple[np.ndarray, np.ndarray]:
    """An axis that belongs to nothing yet; one of size 1 cannot vanish."""
    if n == 1:
        return np.full(1, FIXED, np.int64), np.ones(1, bool)
    return units.new(n), np.full(n, zero)


def together(values: Sequence[Tracked]) -> Source:
    """The source of what is made of values of one rank, axis by axis."""
    if any(value.source is None for value in values):
        return None
    sources = [value.source or () for value in values]
    return tuple(NONE.union(*axes) for axes in zip(*sources, strict=True))


def constant(units: Units, value: Any) -> Tracked:
    """A captured constant: its axes may vanish with whatever they meet."""
    shape = np.shape(value)
    if not hasattr(value, "dtype") or not np.issubdtype(value.dtype, np.generic):
        return fixed(units, shape, "it is an axis of random keys")
    value = np.asarray(value)
    if value.ndim == 0:
        return Tracked((), (), value, ())
    same = value.size > 0 and bool((value == value.flat[0]).all())
    nodes, zeros = [], []
    for axis, n in enumerate(shape):
        axis_nodes, axis_zeros = fresh(units, n, zero=False)
        others = tuple(i for i in range(value.ndim) if i != axis)
        nodes.append(axis_nodes)
        zeros.append(axis_zeros | (value == 0).all(others))
    alike = tuple(
        np.full(n, int(n > 0 and (value == value.take([0], axis)).all()))
        for axis, n in enumerate(shape)
    )
    number = value.flat[0] if same else None
    return Tracked(tuple(nodes), tuple(zeros), number, (frozenset(),) * value.ndim, alike)


def merged(units: Units, value: Tracked, axes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The axis that a row-major reshape makes of some neighbouring ones."""
    nodes, zeros = value.nodes[axes[0]], value.zeros[axes[0]]
    for axis in axes[1:]:
        inner, inner_zeros = value.nodes[axis], value.zeros[axis]
        # An entry of the merged axis may vanish with either; what is fixed claims nothing.
        zeros = np.repeat(zeros | units.is_fixed(nodes), len(inner)) & np.tile(
            inner_zeros | units.is_fixed(inner), len(nodes)
        )
        nodes = units.merge_all(np.repeat(nodes, len(inner)), np.tile(inner, len(nodes)))
    return nodes, zeros


def split(
    units: Units, nodes: np.ndarray, zeros: np.ndarray, sizes: Sequence[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The axes into which a row-major reshape cuts one."""
    if units.is_fixed(nodes).all():
        first = max(nodes.tolist())  # not `FIXED` if another says more
        parts = [np.full(n, first if n > 1 else FIXED, np.int64) for n in sizes]
        return parts, [np.ones(n, bool) for n in sizes]
    axes = [fresh(units, n, zero=True)[0] for n in sizes]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(math.prod(sizes), -1)
    rows = np.array([units.merge(row) for row in grid.tolist()], np.int64)
    units.join_all(nodes, rows)
    shaped = zeros.reshape(tuple(sizes))
    others = [tuple(j for j in range(len(sizes)) if j != i) for i in range(len(sizes))]
    return axes, [np.asarray(shaped.all(other)) for other in others]
