"""A group of channels, and the axes that it has."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Member(NamedTuple):
    """An axis of a parameter that belongs to a group.

    Attributes:
      path: the parameter's path.
      axis: the axis.
      role: "out" where products make the channels (the output axis of a kernel, an embedding's
        features), "in" where products sum over them, "along" elsewhere (biases, norms' scales,
        running statistics).
      owners: the unit that each position belongs to, -1 where it belongs to none of this group,
        int64 ``[size of the axis]``.
      zeroed: whether masks zero it. Not where it divides something, which would not be finite, and
        other members make the channel zero: it is cut out with them all the same.
    """

    path: str
    axis: int
    role: str
    owners: np.ndarray
    zeroed: bool = True


class Group(NamedTuple):
    """Units that share axes. A unit is a channel with all that vanishes with it.

    Attributes:
      name: the path of the first parameter that makes the channels; where one parameter makes
        those of several groups, with the axis: ``"a/kernel:1"``; where one axis does (heads and
        the features of each), with a number, too: ``"a/kernel:1"``, ``"a/kernel:1#2"``.
      size: the number of units.
      members: the axes on which the units have positions. An axis stands there twice where one
        position belongs to two units at once (an axis of heads times features).
    """

    name: str
    size: int
    members: tuple[Member, ...]

    def role(self, role: str) -> tuple[Member, ...]:
        """The members of one role."""
        return tuple(member for member in self.members if member.role == role)

    def makers(self) -> list[tuple[Member, np.ndarray]]:
        """What makes the units, and which each makes, bool ``[size]``.

        The members of role "out"; of units that none of these makes (features that are parameters
        themselves) those that go along with them, else the first that reads them.
        """
        found: list[tuple[Member, np.ndarray]] = []
        rest = np.ones(self.size, bool)
        for role in ("out", "along", "in"):
            among = rest.copy()
            for member in self.role(role):
                units = np.zeros(self.size, bool)
                units[member.owners[member.owners >= 0]] = True
                units &= rest if role == "in" else among
                if units.any():
                    found.append((member, units))
                rest &= ~units
            if not rest.any():
                break
        return found
