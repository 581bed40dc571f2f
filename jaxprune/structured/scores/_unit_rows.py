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
from jaxprune.structured.scores._quantised import dequantised, is_quantised


def scored(
    arrays: Mapping[str, Any],
    members: Iterable[Member],
    *,
    what: str = "weights",
    integers: bool = False,
    scales: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The arrays of some members by path, fit for scores.

    Args:
      arrays: of the parameters' shapes, by path.
      members: the members that count.
      what: the word for the arrays in errors.
      integers: whether integers of 8 bits or fewer count, by the values that they stand for.
      scales: of such, by path; see `magnitude`.

    Raises:
      TypeError: if an array is not floating or complex, or abstract.
      ValueError: outside `jit`, if it holds a NaN or an infinity; if a scale is of no such array,
        or does not fit.
    """
    found = {member.path: arrays[member.path] for member in members}
    for path in scales or {}:
        if path not in arrays or not is_quantised(arrays[path]):
            raise ValueError(f"scales names {path!r}, which is no array of 8-bit integers.")
    for path, array in found.items():
        abstract = isinstance(array, jax.ShapeDtypeStruct)
        if integers and is_quantised(array) and not abstract:
            found[path] = dequantised(path, arrays, scales or {})
        elif abstract or not (_tree.is_floating(array) or _is_complex(array)):
            kind = "abstract" if abstract else "not floating"
            raise TypeError(f"channels are scored by floating arrays; {path!r} is {kind}.")
    _tree.check_finite(
        {path: _parts(x) if _is_complex(x) else x for path, x in found.items()}, what=what
    )
    return found


def modulus(array: Any) -> Any:
    """Complex numbers by their modulus; others stay."""
    return jnp.abs(array) if _is_complex(array) else array


def real_view(array: Any, *, conjugate: bool = False) -> Any:
    """Complex numbers as pairs of real ones along a new last axis; others stay."""
    if not _is_complex(array):
        return array
    array = jnp.asarray(array)
    return jnp.stack([array.real, -array.imag if conjugate else array.imag], axis=-1)


def _is_complex(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.complexfloating)


def _parts(x: Any) -> Any:
    if _tree.is_traced(x):
        return x
    here: Any = np.asarray(x)
    return np.stack([here.real, here.imag])


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
