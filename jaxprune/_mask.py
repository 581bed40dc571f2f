"""What a mask is: boolean leaves, True = kept. Checks of that, and exact counts of what is True."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprune import _eager, _host, _sums, _tree
from jaxprune._tree import PyTree

# A uint32 sum of fewer entries than this cannot wrap.
_LIMIT = 1 << 32


def check_bool(mask: PyTree, *, what: str = "a mask") -> None:
    """Raises unless every leaf of a mask is boolean.

    Args:
      mask: the tree.
      what: how the error calls it.

    Raises:
      TypeError: naming the first leaf that is not.
    """
    for path, leaf in _tree.named_leaves(mask):
        dtype = getattr(leaf, "dtype", None)
        if dtype != np.bool_:
            has = f"is a {type(leaf).__name__}" if dtype is None else f"has dtype {dtype}"
            raise TypeError(
                f"{what} holds boolean arrays (True = kept), but {path!r} {has}. Compare first, "
                "e.g. mask = weights != 0."
            )


def or_zero(mask: jax.Array, x: jax.Array) -> jax.Array:
    """An array with +0.0 where its mask is False.

    Chosen, not multiplied: a pruned NaN or infinity becomes 0 as well, and no zero is negative.
    """
    return jnp.where(mask, x, jnp.zeros_like(x))


def check_given(mask: PyTree) -> None:
    """Raises unless a mask, as a user passes it, has leaves and all of them are boolean.

    Raises:
      ValueError: if it has no leaf.
      TypeError: naming the first leaf that is not boolean.
    """
    if not jax.tree.leaves(mask):
        raise ValueError(f"the mask has no leaf: {mask!r:.80}. Make one with jaxprune.masks.make.")
    check_bool(mask)


def check_pair(a: PyTree, b: PyTree) -> None:
    """Raises if two masks are not of the same parameters.

    Containers may differ (a dict beside a FrozenDict); paths, shapes and what is prunable may not.

    Raises:
      ValueError: naming the first path that differs.
      TypeError: if a leaf is not boolean.
    """
    check_bool(a)
    check_bool(b)
    ours, theirs = _tree.named_leaves(a), _tree.named_leaves(b)
    paths, others = [path for path, _ in ours], [path for path, _ in theirs]
    if differing := sorted(set(paths) ^ set(others)):
        which = "first" if differing[0] in paths else "second"
        raise ValueError(
            f"only the {which} mask has a leaf at {differing[0]!r}. Make both masks from the same "
            "parameters, with the same `where`."
        )
    for (path, x), (other, y) in zip(ours, theirs, strict=True):
        if path != other:
            raise ValueError(
                f"the masks hold their leaves in another order: {path!r} where {other!r} is. Use "
                "the same containers for both."
            )
        if x.shape != y.shape:
            raise ValueError(
                f"the first mask has shape {x.shape} at {path!r}, the second {y.shape}. Make both "
                "masks from the same parameters."
            )


def count_true(leaves: Sequence[Any]) -> list[int]:
    """Counts the True entries of bool arrays, exactly at any size.

    Args:
      leaves: bool arrays of any shapes.

    Returns:
      One Python integer an array.
    """
    return [count for (count,) in count_layers(leaves, [()] * len(leaves))]


def count_layers(leaves: Sequence[Any], stacked: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Counts the True entries of each layer of bool arrays, exactly at any size.

    An array that is spread over devices along its layers stays where it lies.

    Args:
      leaves: bool arrays of any shapes.
      stacked: of each the axes that its layers are stacked along, rising; none: it is one layer.

    Returns:
      Of each array the Python integers of its layers, in C order of these axes.
    """
    counts: list[list[int]] = [[]] * len(leaves)
    # The others in one program for all that lie on the same devices.
    elsewhere: dict[Any, list[int]] = {}
    for i, (leaf, own) in enumerate(zip(leaves, stacked, strict=True)):
        if (host := _host.view(leaf)) is not None:
            axes = tuple(axis for axis in range(host.ndim) if axis not in own)
            found = np.count_nonzero(host, axis=axes) if own else np.count_nonzero(host)
            counts[i] = np.ravel(found).tolist()
        else:
            elsewhere.setdefault(_eager.places([leaf]), []).append(i)
    for where, indices in elsewhere.items():
        axes = tuple(stacked[i] for i in indices)
        sums = _counter(where)([leaves[i] for i in indices], _LIMIT, axes)
        for i, digits in zip(indices, jax.device_get(sums), strict=True):
            own = tuple(leaves[i].shape[axis] for axis in stacked[i])
            rows = np.reshape(digits, (-1, math.prod(own)))
            counts[i] = [from_digits(rows[:, layer]) for layer in range(rows.shape[1])]
    return counts


def from_digits(digits: np.ndarray) -> int:
    """Puts digit sums of base 256, lowest first, together; a scalar is its own value."""
    return sum(int(d) << (8 * i) for i, d in enumerate(np.atleast_1d(digits)))


def _kept_axes(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """The axes not to sum over, so that each sum has fewer than ``limit`` entries and few remain.

    No single axis of ``shape`` may reach ``limit``.
    """
    axes = range(len(shape))
    choices = (kept for r in range(len(shape) + 1) for kept in itertools.combinations(axes, r))
    remaining = {kept: math.prod(shape[i] for i in kept) for kept in choices}
    fits = [kept for kept, n in remaining.items() if math.prod(shape) // n < limit]
    return min(fits, key=lambda kept: remaining[kept])


def _digit_sums(leaf: jax.Array, limit: int = _LIMIT, own: tuple[int, ...] = ()) -> jax.Array:
    """Counts the True entries of an array of any size, without 64-bit integers.

    Args:
      leaf: bool array of any shape.
      limit: no sum runs over as many entries; smaller ones are for tests.
      own: axes not to sum over.

    Returns:
      uint32 ``[4, *lengths of these axes]``, ``d`` with the counts ``sum(d[i] * 256**i)``. Not the
      partial sums themselves: those would stay on the devices of their shards, which other
      processes cannot read.
    """
    total = jnp.zeros((4, *(leaf.shape[axis] for axis in own)), jnp.uint32)
    for piece in _pieces(leaf, limit, own):
        others = [i for i in range(piece.ndim) if i not in own]
        kept = [others[i] for i in _kept_axes(tuple(piece.shape[i] for i in others), limit)]
        summed = tuple(i for i in others if i not in kept)
        rest = [i for i in range(piece.ndim) if i not in summed]
        sums = _sums.count_true([piece], summed)[0]
        total = total + _add_digits(sums, tuple(rest.index(i) for i in kept))
    return total


def _add_digits(sums: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Adds uint32 numbers along axes digit by digit, to base 256, without carries: ``[4, ...]``."""
    # A digit is below 256, so up to 2**24 numbers are added exactly.
    digits = ((sums >> s) & 0xFF for s in (0, 8, 16, 24))
    return jnp.stack([jnp.sum(digit, axes, dtype=jnp.uint32) for digit in digits])


def _pieces(leaf: jax.Array, limit: int, own: tuple[int, ...] = ()) -> list[jax.Array]:
    """Cuts axes of ``limit`` or more entries (no sum may run over one) into shorter pieces."""
    for axis, n in enumerate(leaf.shape):
        if n >= limit and axis not in own:
            starts = range(0, n, limit // 2)
            cut = [
                jax.lax.slice_in_dim(leaf, start, min(start + limit // 2, n), axis=axis)
                for start in starts
            ]
            return [piece for part in cut for piece in _pieces(part, limit, own)]
    return [leaf]


@functools.cache
def _counter(where: frozenset[Any] | None) -> Any:
    """`_count_all`, with counts that each process of a mesh can read."""
    meshes = [place for place in where or () if isinstance(place, jax.sharding.Mesh)]
    if len(meshes) != 1:
        return _count_all
    return jax.jit(_count, static_argnums=(1, 2), out_shardings=NamedSharding(meshes[0], P()))


def _count(
    leaves: list[jax.Array], limit: int, stacked: tuple[tuple[int, ...], ...] | None = None
) -> list[jax.Array]:
    # One uint32 sum is exact for a leaf below 2**32 entries, where an int32 sum would wrap at
    # 2**31 and a float32 mean would already round at 2**24. Larger leaves take a longer way.
    counts = []
    for leaf, own in zip(leaves, stacked or ((),) * len(leaves), strict=True):
        summed = tuple(axis for axis in range(leaf.ndim) if axis not in own)
        if math.prod(leaf.shape[axis] for axis in summed) < limit:
            counts.append(_sums.count_true([leaf], summed)[0])
        else:
            counts.append(_digit_sums(leaf, limit, own))
    return counts


_count_all = jax.jit(_count, static_argnums=(1, 2))
