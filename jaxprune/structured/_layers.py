"""Layers: which channels of a group each kernel makes.

A concatenation puts the channels of several layers into one group, and a shortcut that pads makes
some of them shared. So channels are counted by **parts**: those of a group that the same layers
make. Most groups are one part. A **layer** is a union of parts: what one kernel makes, or several
that make exactly the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprune.structured._group import Group


class Part(NamedTuple):
    """Channels of a group that the same layers make: what is counted by itself.

    Attributes:
      name: of the smallest layer that makes them.
      group: the number of the group.
      units: which of its units, ascending, int64 ``[size of the part]``.
    """

    name: str
    group: int
    units: np.ndarray

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.units)


class Layer(NamedTuple):
    """The channels that a kernel makes.

    Attributes:
      names: the paths of all kernels that make exactly these channels, each with its axis,
        ``"path:axis"``, where it makes those of several groups; the name of the group first if its
        first kernel is one of them.
      kernels: their paths and axes.
      group: the number of the group.
      parts: the numbers of its parts, of all groups together.
      size: the number of channels.
    """

    names: tuple[str, ...]
    kernels: tuple[tuple[str, int], ...]
    group: int
    parts: tuple[int, ...]
    size: int


def parts_of(groups: Sequence[Group]) -> tuple[Part, ...]:
    """The parts of all groups, in the order of their first channels."""
    parts = []
    for i, group in enumerate(groups):
        makers = group.makers()
        table = np.array([units for _, units in makers])
        _, first, which = np.unique(table, axis=1, return_index=True, return_inverse=True)
        for k in np.argsort(first, kind="stable").tolist():
            units = np.flatnonzero(which.reshape(-1) == k)
            held = [j for j in range(len(makers)) if table[j, units[0]]]
            name = makers[min(held, key=lambda j: table[j].sum())][0].path
            parts.append(Part(group.name if len(first) == 1 else name, i, units))
    return tuple(parts)


def layers_of(groups: Sequence[Group], parts: Sequence[Part]) -> tuple[Layer, ...]:
    """The layers of all groups, in the order of the groups' members."""
    makers = [group.makers() for group in groups]
    times = {"out": Counter[str](), "along": Counter[str](), "in": Counter[str]()}
    for found in makers:
        for path, role in {(m.path, m.role) for m, _ in found}:
            times[role][path] += 1
    layers = []
    for i, (group, found) in enumerate(zip(groups, makers, strict=True)):
        names: dict[tuple[int, ...], list[str]] = {}
        kernels: dict[tuple[int, ...], list[tuple[str, int]]] = {}
        ours = [(k, part.units[0]) for k, part in enumerate(parts) if part.group == i]
        for number, (member, units) in enumerate(found):
            held = tuple(k for k, unit in ours if units[unit])
            new = names.setdefault(held, [] if number else [group.name])
            # A path that makes channels of several groups (heads and their features) names none.
            alone = member.role != "in" and times[member.role][member.path] == 1
            alone &= member.role == "out" or not times["out"][member.path]
            new.append(member.path if alone else f"{member.path}:{member.axis}")
            kernels.setdefault(held, []).append((member.path, member.axis))
        for held, ours_names in names.items():
            size = sum(parts[k].size for k in held)
            unique = tuple(dict.fromkeys(ours_names))
            layers.append(Layer(unique, tuple(dict.fromkeys(kernels[held])), i, held, size))
    return tuple(layers)
