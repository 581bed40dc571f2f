"""The entries of parameters unit by unit: what every score of channels is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Group, Member, check_params


def scored(
    arrays: Mapping[str, Any], members: Iterable[Member], *, what: str = "weights"
) -> dict[str, Any]:
    """The arrays of some members by path, fit for scores.

    Args:
      arrays: of the parameters' shapes, by path.
      members: the members that count.
      what: the word for the arrays in errors.

    Raises:
      TypeError: if an array is not floating, or abstract.
      ValueError: outside `jit`, if it holds a NaN or an infinity.
    """
    found = {member.path: arrays[member.path] for member in members}
    for path, array in found.items():
        if not _tree.is_floating(array) or isinstance(array, jax.ShapeDtypeStruct):
            kind = "abstract" if _tree.is_floating(array) else "not floating"
            raise TypeError(f"channels are scored by floating arrays; {path!r} is {kind}.")
    _tree.check_finite(found, what=what)
    return found


def arrays_of(groups: ChannelGroups, params: PyTree) -> dict[str, Any]:
    """The leaves of grouped parameters by path.

    Raises:
      ValueError: if they are not those that were grouped.
    """
    check_params(groups, params)
    return dict(_tree.named_leaves(params))


def unit_rows(array: Any, group: Group, member: Member) -> jax.Array:
    """The entries of an array that belong to each unit, one row a unit.

    A row holds the slices at all positions of its unit, one after the other, and zeros where
    another unit has more of them. Rows are gathered and not scattered into, so that sums over them
    are the same at every call on every device.

    Args:
      array: of the shape of the member's parameter, see `scored`.
      group: the group.
      member: one of its members.

    Returns:
      ``[size of the group, entries]``, float32 at least.
    """
    array = jnp.asarray(array)
    array = array.astype(_tree.wide_dtype(array.dtype))
    rows = jnp.moveaxis(array, member.axis, 0).reshape(array.shape[member.axis], -1)
    if not np.array_equal(member.owners, np.arange(group.size)):
        none = jnp.zeros((1, rows.shape[1]), rows.dtype)
        table = _positions(member.owners, group.size)
        rows = jnp.concatenate([rows, none])[table].reshape(group.size, -1)
    # Not fused with what sums them: the order of a sum should not depend on where rows come from.
    return jax.lax.optimization_barrier(rows)


def holds(group: Group, member: Member) -> np.ndarray:
    """Which units have a position on a member, bool ``[size of the group]``."""
    return np.bincount(member.owners[member.owners >= 0], minlength=group.size) > 0


def _positions(owners: np.ndarray, size: int) -> np.ndarray:
    """The positions of each unit, ``[size, most]``; one past the end where it has no more."""
    owned = np.flatnonzero(owners >= 0)
    inside = owned[np.argsort(owners[owned], kind="stable")]
    counts = np.bincount(owners[owned], minlength=size)
    starts = np.cumsum(counts) - counts
    units = owners[inside]
    table = np.full((size, counts.max()), len(owners))
    table[units, np.arange(len(inside)) - starts[units]] = inside
    return table
