"""The entries of parameters unit by unit: what every score of channels is made of."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Group, Member, check_params


def arrays_of(groups: ChannelGroups, params: PyTree) -> dict[str, Any]:
    """The leaves of grouped parameters by path.

    Raises:
      ValueError: if they are not those that were grouped.
    """
    check_params(groups, params)
    return dict(_tree.named_leaves(params))


def unit_rows(array: Any, group: Group, member: Member, *, what: str = "weights") -> jax.Array:
    """The entries of an array that belong to each unit, one row a unit.

    A row holds the slices at all positions of its unit, one after the other, and zeros where
    another unit has more of them. Rows are gathered and not scattered into, so that sums over them
    are the same at every call on every device.

    Args:
      array: of the shape of the member's parameter.
      group: the group.
      member: one of its members.
      what: the word for the array in errors.

    Returns:
      ``[size of the group, entries]``, float32 at least.

    Raises:
      TypeError: if the array is not floating, or abstract.
      ValueError: outside `jit`, if it holds a NaN or an infinity.
    """
    if not _tree.is_floating(array) or isinstance(array, jax.ShapeDtypeStruct):
        kind = "abstract" if _tree.is_floating(array) else "not floating"
        raise TypeError(f"channels are scored by floating arrays; {member.path!r} is {kind}.")
    _tree.check_finite({member.path: array}, what=what)
    array = jnp.asarray(array)
    array = array.astype(_tree.wide_dtype(array.dtype))
    slices = jnp.moveaxis(array, member.axis, 0).reshape(array.shape[member.axis], -1)
    if np.array_equal(member.owners, np.arange(group.size)):
        return slices
    none = jnp.zeros((1, slices.shape[1]), slices.dtype)
    table = _positions(member.owners, group.size)
    return jnp.concatenate([slices, none])[table].reshape(group.size, -1)


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
