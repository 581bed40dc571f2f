"""Groups of channels: what vanishes together, and what cannot vanish and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree


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


class FixedAxis(NamedTuple):
    """Positions on an axis of a parameter that cannot vanish.

    Attributes:
      path: the parameter's path.
      axis: the axis.
      positions: how many of its positions.
      reason: why, and which primitive did it.
      line: the file and the line where it did, ``"model.py:12"``; "" where JAX knows none.
      repair: what would free it, where that is known.
    """

    path: str
    axis: int
    positions: int
    reason: str
    line: str = ""
    repair: str = ""

    @property
    def why(self) -> str:
        """The reason and the line."""
        return f"{self.reason} ({self.line})" if self.line else self.reason


@dataclass(frozen=True)
class ChannelGroups:
    """What `channel_groups` returns.

    Attributes:
      groups: in the order of their first parameters in `jax.tree.leaves`.
      fixed: what cannot vanish, with reasons; axes of size one are left out.
      state: ``(path of a result, path of a parameter)`` where the result has the parameter's place
        and shape (new running statistics), so that it shrinks with it.
      shapes: of all leaves of the parameters, by path.
      treedef: of the parameters.
    """

    groups: tuple[Group, ...]
    fixed: tuple[FixedAxis, ...]
    state: tuple[tuple[str, str], ...]
    shapes: dict[str, tuple[int, ...]]
    treedef: Any

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Any:
        return iter(self.groups)

    def __getitem__(self, key: int | str) -> Group:
        """A group by number, or by name or the path of a kernel that makes its channels."""
        if not isinstance(key, str):
            return self.groups[key]
        return self.groups[self.index(key)]

    def index(self, name: str) -> int:
        """The number of the group whose channels the parameter at a path makes.

        Raises:
          ValueError: if there is none, saying why; if there are several.
        """
        found = [i for i, g in enumerate(self.groups) if g.name == name]
        if not found:
            found = [
                i
                for i, group in enumerate(self.groups)
                for m in group.role("out")
                if name in (m.path, f"{m.path}:{m.axis}")
            ]
            found = list(dict.fromkeys(found))
        if len(found) == 1:
            return found[0]
        if found:
            names = [self.groups[i].name for i in found]
            raise ValueError(f"{name!r} makes the channels of several groups: {names}. Name one.")
        if name not in self.shapes:
            raise ValueError(f"there is no parameter {name!r}; groups: {self._names()}.")
        ours = [f for f in self.fixed if f.path == name]
        reasons = sorted({f"axis {f.axis}: {f.why}" for f in ours})
        repairs = "".join(dict.fromkeys(f" {f.repair}" for f in ours if f.repair))
        raise ValueError(
            f"{name!r} makes no channels that can be removed: {'; '.join(reasons)}.{repairs}"
        )

    def _names(self) -> list[str]:
        return [group.name for group in self.groups]

    def __str__(self) -> str:
        return self.report()

    def report(self) -> str:
        """A table of the groups and their members, and of what is fixed and why."""
        plural = "" if len(self.groups) == 1 else "s"
        total = sum(group.size for group in self.groups)
        lines = [f"{len(self.groups)} group{plural}, {total} channels"]
        for group in self.groups:
            lines.append(f"{group.name}: {group.size} channels")
            for member in group.members:
                n = int((member.owners >= 0).sum())
                whole = "" if n == len(member.owners) else f" of {len(member.owners)}"
                lines.append(
                    f"  {member.role:5} {member.path} axis {member.axis}, {n}{whole} positions"
                    + ("" if member.zeroed else ", not zeroed by masks")
                )
        if self.fixed:
            lines.append("fixed:")
        for entry in self.fixed:
            size = self.shapes[entry.path][entry.axis]
            n = str(size) if entry.positions == size else f"{entry.positions} of {size}"
            lines.append(f"  {entry.path} axis {entry.axis}, {n} positions: {entry.why}")
        lines += dict.fromkeys(entry.repair for entry in self.fixed if entry.repair)
        if self.state:
            shown = [f"{result} with {path}" for result, path in self.state[:3]]
            more = f" and {len(self.state) - 3} more" if len(self.state) > 3 else ""
            lines.append(f"results that shrink with a parameter: {', '.join(shown)}{more}")
        return "\n".join(lines)


def check_params(groups: ChannelGroups, params: PyTree) -> None:
    """Raises if parameters are not those that were grouped.

    Raises:
      ValueError: naming the first path that differs.
    """
    now = {path: tuple(np.shape(leaf)) for path, leaf in _tree.named_leaves(params)}
    for path in [*groups.shapes, *now]:
        if now.get(path) != groups.shapes.get(path):
            raise ValueError(
                "the parameters changed since they were grouped: "
                f"{path!r} has shape {now.get(path, 'none')}, and had "
                f"{groups.shapes.get(path, 'none')}. Call channel_groups again."
            )


def check_kept(groups: ChannelGroups, kept: Sequence[Any]) -> list[np.ndarray]:
    """Returns which units stay as bool arrays, one a group, or raises.

    Raises:
      ValueError: if there is not one array a group, of its size, or one keeps nothing.
      TypeError: if they are not bool, or traced.
    """
    if len(kept) != len(groups):
        raise ValueError(f"there are {len(groups)} groups, but `kept` has {len(kept)} entries.")
    arrays = []
    for group, stays in zip(groups, kept, strict=True):
        if _tree.is_traced(stays):
            raise TypeError("which channels stay decides shapes: it cannot be traced.")
        stays = np.asarray(stays)
        if stays.dtype != bool:
            raise TypeError(f"kept is bool (True = stays), but {group.name!r} has {stays.dtype}.")
        if stays.shape != (group.size,):
            raise ValueError(
                f"{group.name!r} has {group.size} channels, but `kept` has shape {stays.shape}."
            )
        if not stays.any():
            raise ValueError(f"no channel is left of {group.name!r}. Keep at least one.")
        arrays.append(stays)
    return arrays
