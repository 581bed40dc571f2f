"""The squared norm of every channel, in the parameters as an optimizer sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Group
from jaxprune.structured._named import skipped_units
from jaxprune.structured.scores._members import Members, counted
from jaxprune.structured.scores._unit_rows import holds, unit_rows


class Squares(NamedTuple):
    """Of one group.

    Attributes:
      group: the group.
      values: the sum of squares of all entries of a unit, ``[size of the group]``.
      entries: how many these are, int64 ``[size]``.
      open: which units are not skipped, bool ``[size]``.
    """

    group: Group
    values: jax.Array
    entries: np.ndarray
    open: np.ndarray


def unit_squares(
    groups: ChannelGroups, params: PyTree, members: Members, skip: Sequence[str]
) -> Iterator[Squares]:
    """Sums squares over the members of each unit that count.

    Raises:
      ValueError: as `counted`; if a member is not in the parameters, or has another shape.
    """
    found = counted(groups, members, skip)
    arrays = arrays_in(groups, params)
    skipped = skipped_units(groups, skip)
    for group, ours, out in zip(groups, found.members, skipped, strict=True):
        if out.all():
            continue
        total, entries = jnp.zeros(group.size), np.zeros(group.size, np.int64)
        for member in ours:
            array = arrays(member.path)
            square = jnp.sum(jnp.square(unit_rows(array, group, member)), axis=1)
            dtype = _tree.wide_dtype(total.dtype, square.dtype)
            total = total.astype(dtype) + square.astype(dtype)
            each = int(np.prod(array.shape)) // array.shape[member.axis]
            inside = member.owners[member.owners >= 0]
            entries += each * np.bincount(inside, minlength=group.size) * holds(group, member)
        yield Squares(group, total, entries, ~out)


def arrays_in(groups: ChannelGroups, params: PyTree) -> _Arrays:
    """Finds arrays by the paths of groups."""
    return _Arrays(groups, params)


class _Arrays:
    """Parameters by path; the first part may be missing, as in what an optimizer sees."""

    def __init__(self, groups: ChannelGroups, params: PyTree):
        self._shapes, self._held = groups.shapes, dict(_tree.named_leaves(params))

    def __call__(self, path: str) -> jax.Array:
        found = self._held.get(path)
        if found is None:
            found = self._held.get(path.partition("/")[2])
        if found is None:
            raise ValueError(
                f"{path!r} is not in the parameters, which have {[*self._held][:3]}, ... Pass "
                "those that were grouped, or of {'params': ...} the params."
            )
        if tuple(found.shape) != self._shapes[path]:
            raise ValueError(
                f"{path!r} has shape {tuple(found.shape)}, and had {self._shapes[path]} when it "
                "was grouped. Group what is left anew, or see jaxprune.structured.remaining."
            )
        return found
