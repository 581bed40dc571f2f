"""Masks of groups: every member of a removed unit is zero, so that masked equals removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Group, check_kept


def masks(groups: ChannelGroups, kept: Sequence[Any]) -> PyTree:
    """Masks that zero every parameter of the channels that go, norms and statistics included.

    With `jaxprune.apply_mask` they give the network that `shrink` makes small.

    Args:
      groups: from `channel_groups`.
      kept: for each group which channels stay, bool ``[size of the group]``; see `select`.

    Returns:
      A tree like the parameters of bool arrays of their shapes, True = kept; `None` for parameters
      that belong to no group, or whose zeros would divide something: what is left makes the
      channel zero, see `Member`.

    Raises:
      ValueError: if an array has another size than its group, or keeps nothing of it or of a
        parameter.
      TypeError: if it is not bool, or traced.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 3)), "b": jnp.ones((3, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> jp.structured.masks(groups, [jnp.array([True, False, True])])["a"]
      Array([[ True, False,  True]], dtype=bool)
    """
    chosen = check_kept(groups, kept)
    kept_positions(groups, chosen)  # raises
    stays = kept_positions(groups, chosen, zeroed=True)
    leaves = []
    for path, shape in groups.shapes.items():
        mask = None
        for axis, n in enumerate(shape):
            if (path, axis) in stays:
                whole = np.ones(shape, bool) if mask is None else mask
                aligned = [1] * len(shape)
                aligned[axis] = n
                mask = whole & stays[path, axis].reshape(aligned)
        # `jnp.asarray` would compile a program for every shape.
        leaves.append(None if mask is None else jax.device_put(mask))
    return groups.treedef.unflatten(leaves)


def kept_positions(
    groups: ChannelGroups, kept: Sequence[np.ndarray], *, zeroed: bool = False
) -> dict[tuple[str, int], np.ndarray]:
    """Which positions stay of each axis that a group has, bool ``[size]``, by (path, axis).

    Args:
      groups: the groups.
      kept: which units stay.
      zeroed: whether to look only at what masks zero.

    Raises:
      ValueError: if none stays.
    """
    stays: dict[tuple[str, int], np.ndarray] = {}
    for group, chosen in zip(groups, kept, strict=True):
        for member in group.members:
            if zeroed and not member.zeroed:
                continue
            # The extra last entry is for positions of no unit of this group: they stay.
            ours = np.append(chosen, True)[member.owners]
            key = (member.path, member.axis)
            stays[key] = stays[key] & ours if key in stays else ours
    for (path, axis), alive in stays.items():
        if not alive.any():
            raise ValueError(
                f"nothing is left of {path!r} along axis {axis}. Keep at least one of its channels."
            )
    return stays


def kept_of(
    groups: ChannelGroups, masks: PyTree, *, role: Literal["out"] | None = None
) -> list[np.ndarray]:
    """Reads off masks which units stay.

    A unit goes if all its members that masks zero are masked at all its positions. Masks may hold
    other zeros beside; where there is none (`None`) everything stays.

    Masks of filters alone, as patterns of channels and soft filter pruning make them, leave biases,
    norms and readers of the filter, so that the masked network is not yet the small one. Read with
    ``role="out"`` they say which channels are meant, and `masks` completes them::

        kept = jp.structured.kept_of(groups, filter_masks, role="out")
        masks = jp.structured.masks(groups, kept)

    Args:
      groups: from `channel_groups`.
      masks: a tree like the parameters, bool arrays or `None`.
      role: "out" to look only at the parameters that make a channel: it goes if all of them are
        masked; `None` for all members.

    Returns:
      One bool array a group, see `masks`.

    Raises:
      ValueError: if masks are of another tree, a unit is gone in one member and not in another, or
        nothing is left of a group.
      TypeError: if a mask is not bool, or traced.
    """
    leaves = _leaves(groups, masks)
    alive_along: dict[tuple[str, int], np.ndarray] = {}
    for path, shape in groups.shapes.items():
        mask = leaves.get(path)
        for axis, n in enumerate(shape):
            others = tuple(a for a in range(len(shape)) if a != axis)
            alive = np.ones(n, bool) if mask is None else mask.any(others)
            alive_along[path, axis] = np.asarray(alive)
    # For each unit 1: some position of it is alive; 0: none is; -1: it has no position there.
    alive = [
        [(m, _alive(group, m.owners, alive_along[m.path, m.axis]))
         for m in group.members if (m.zeroed if role is None else m.role == role)]
        for group in groups
    ]  # fmt: skip
    kept = [
        np.max([ours for _, ours in found], axis=0, initial=-1) != 0
        if found
        else np.ones(group.size, bool)
        for group, found in zip(groups, alive, strict=True)
    ]
    stays = kept_positions(groups, check_kept(groups, kept))
    if role is not None:
        return kept
    for group, chosen, found in zip(groups, kept, alive, strict=True):
        for member, ours in found:
            # A position may be dead because another unit that it belongs to is gone.
            key = (member.path, member.axis)
            unexplained = (member.owners >= 0) & stays[key] & ~alive_along[key]
            split = np.zeros(group.size, bool)
            split[member.owners[unexplained]] = True
            split &= chosen & (ours == 0)
            if split.any():
                unit = int(np.flatnonzero(split)[0])
                other = next(m for m, there in found if there[unit] == 1)
                repair = "Mask all that belongs to a channel: jp.structured.masks(groups, kept)."
                if member.role == "out":
                    repair = (
                        "Masks of filters alone are completed by jp.structured.masks(groups, "
                        "jp.structured.kept_of(groups, masks, role='out'))."
                    )
                raise ValueError(
                    f"the masks split channel {unit} of {group.name!r}: {member.path!r} is masked "
                    f"at {_positions(member, unit)} on axis {member.axis}, but {other.path!r} is "
                    f"kept at {_positions(other, unit)} on axis {other.axis}. " + repair
                )
    return kept


def _alive(group: Group, owners: np.ndarray, alive: np.ndarray) -> np.ndarray:
    ours = np.full(group.size, -1)
    np.maximum.at(ours, owners[owners >= 0], alive[owners >= 0].astype(ours.dtype))
    return ours


def _positions(member: Any, unit: int) -> str:
    found = np.flatnonzero(member.owners == unit).tolist()
    shown = ", ".join(map(str, found[:4])) + (", ..." if len(found) > 4 else "")
    return f"position {shown}" if len(found) == 1 else f"positions {shown}"


def _leaves(groups: ChannelGroups, masks: PyTree) -> dict[str, np.ndarray]:
    shapes = groups.treedef.unflatten(
        [jax.ShapeDtypeStruct(shape, bool) for shape in groups.shapes.values()]
    )
    _tree.check_matches(masks, shapes)
    found = {}
    for path, mask in _tree.named_leaves(masks):
        if _tree.is_traced(mask):
            raise TypeError("masks decide shapes: they cannot be traced. Shrink outside of jit.")
        if mask.dtype != bool:
            raise TypeError(f"a mask is bool (True = kept), but {path!r} is {mask.dtype}.")
        found[path] = np.asarray(mask)
    return found
