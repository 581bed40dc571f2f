"""What a pattern is: which weights go together.

A pattern is a function ``(path, leaf) -> PatternSpec | None``; `None` leaves a leaf unstructured.
The spec cuts a leaf into groups. Either a group is kept or removed whole (blocks, channels), and
then groups are what an allocation counts; or a fixed number of each group is kept (N:M), and then
nothing is left to allocate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree

Norm: TypeAlias = Literal["l1", "l2", "max", "mean"]
Remainder: TypeAlias = Literal["error", "dense", "pad"]
REMAINDERS = ("error", "dense", "pad")


class PatternSpec(NamedTuple):
    """How one leaf is cut into groups.

    Attributes:
      axes: the axes along which the leaf is cut; a group spans the given length of each of these
        and one index of every other axis. Negative numbers count from the last axis.
      group: the length of a group along each of ``axes``.
      kept: how many entries of each group stay; `None` if groups stay or go whole.
      norm: how the scores of a group that goes whole become one: "l1" their sum (the L1 norm of the
        weights where scores are magnitudes), "l2" the root of the sum of squares (for scores that
        are not negative), "max" or "mean". Weights that `within` has removed count as 0, and not
        at all for "max".
      remainder: what happens where a length does not divide an axis: "error"; "dense": what is
        left over at the end of the axis stays and is not counted; "pad": it makes a smaller group,
        as if the axis went on with weights that are pruned already.
    """

    axes: tuple[int, ...]
    group: tuple[int, ...]
    kept: int | None = None
    norm: Norm = "l1"
    remainder: Remainder = "error"


Pattern: TypeAlias = Callable[[str, Any], PatternSpec | None]


def resolve(pattern: Pattern | None, scores: PyTree) -> tuple[PatternSpec | None, ...]:
    """The checked spec of each leaf, with axes counted from the first.

    Raises:
      ValueError: if an axis does not exist, a group does not divide it, or, outside `jit`, scores
        are negative under the norm "l2"; with the leaf's path.
      TypeError: if the pattern is not a function that gives specs.
    """
    named = _tree.named_leaves(scores)
    if pattern is None:
        return (None,) * len(named)
    if not callable(pattern):
        raise TypeError(f"pattern is a function such as jp.masks.nm(2, 4); got {pattern!r}.")
    specs = tuple(_checked(pattern(path, leaf), path, leaf.shape) for path, leaf in named)
    check_signs(named, specs)
    return specs


def check_signs(named: Sequence[tuple[str, Any]], specs: Sequence[PatternSpec | None]) -> None:
    """Raises if scores that are to be squared are negative. Of traced scores nothing is seen.

    Raises:
      ValueError: naming the leaf.
    """
    squared = {
        path: leaf
        for (path, leaf), spec in zip(named, specs, strict=True)
        if spec is not None and spec.kept is None and spec.norm == "l2"
    }
    for path in _tree.negative(squared):
        raise ValueError(
            f"the scores of {path!r} are negative somewhere; the norm 'l2' squares them, which "
            "would lose their order. Use norm='l1', their sum, or 'max'."
        )


def _checked(spec: Any, path: str, shape: tuple[int, ...]) -> PatternSpec | None:
    if spec is None:
        return None
    if not isinstance(spec, PatternSpec):
        raise TypeError(f"a pattern gives a PatternSpec or None; got {spec!r} for {path!r}.")
    if len(spec.axes) != len(spec.group):
        raise ValueError(
            f"{spec} for {path!r} has {len(spec.axes)} axes, {len(spec.group)} lengths."
        )
    check_words(spec.norm, spec.remainder, path)
    axes = tuple(axis + len(shape) if axis < 0 else axis for axis in spec.axes)
    for axis, given in zip(axes, spec.axes, strict=True):
        if not 0 <= axis < len(shape):
            raise ValueError(f"the pattern names axis {given} of {path!r}, whose shape is {shape}.")
    if len(set(axes)) < len(axes):
        raise ValueError(f"the pattern names an axis of {path!r} twice: {spec.axes} of {shape}.")
    for axis, length in zip(axes, spec.group, strict=True):
        if length < 1 or (shape[axis] % length and spec.remainder == "error"):
            raise ValueError(
                f"groups of {length} do not divide axis {axis} of {path!r}, of shape {shape}. "
                'Leave the leaf out with `where`, or pass remainder="dense" to keep what is left, '
                'or remainder="pad" for a smaller group.'
            )
    if spec.kept is not None and not 0 < spec.kept <= math.prod(spec.group):
        raise ValueError(
            f"{spec.kept} of a group of {math.prod(spec.group)} cannot be kept, in {path!r}."
        )
    # In the order of the axes, so that specs of one meaning are equal.
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    return spec._replace(
        axes=tuple(axes[i] for i in order), group=tuple(spec.group[i] for i in order)
    )


def check_words(norm: str, remainder: str = "error", path: str | None = None) -> None:
    """Raises if one of the words is unknown.

    Raises:
      ValueError: naming the known ones.
    """
    where = "" if path is None else f" for {path!r}"
    if norm not in ("l1", "l2", "max", "mean"):
        raise ValueError(f"norm is 'l1', 'l2', 'max' or 'mean'; got {norm!r}{where}.")
    if remainder not in REMAINDERS:
        raise ValueError(f"remainder is 'error', 'dense' or 'pad'; got {remainder!r}{where}.")


def groups_of(shape: tuple[int, ...], spec: PatternSpec) -> tuple[int, ...]:
    """The shape of the array of groups of a leaf."""
    lengths = dict(zip(spec.axes, spec.group, strict=True))
    counts = [divmod(size, lengths.get(axis, 1)) for axis, size in enumerate(shape)]
    return tuple(n + (rest > 0 and spec.remainder == "pad") for n, rest in counts)


def sizes_of(shape: tuple[int, ...], spec: PatternSpec) -> np.ndarray:
    """How many weights each group has, an array of ``groups_of(shape)``: fewer where it is padded.

    Kept small: an axis that is not cut has length 1.
    """
    counts = groups_of(shape, spec)
    sizes = np.ones((1,) * len(shape), np.int64)
    for axis, length in zip(spec.axes, spec.group, strict=True):
        starts = np.arange(counts[axis]) * length
        own = np.minimum(length, shape[axis] - starts)
        sizes = sizes * own.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return sizes


def split(x: Any, spec: PatternSpec, *, pad: Any = 0) -> Any:
    """Cuts a leaf into groups: an array of ``groups_of(shape)`` and one last axis, the group.

    Like its neighbours below, of arrays of JAX or of NumPy. What does not fill a group is left out,
    or, where the spec says so, filled up with ``pad``.
    """
    counts = groups_of(x.shape, spec)
    lengths = dict(zip(spec.axes, spec.group, strict=True))
    whole = tuple(c * lengths.get(axis, 1) for axis, c in enumerate(counts))
    if whole != x.shape:
        x = _resized(x, whole, pad)
    shape: list[int] = []
    outer, inner = [], []
    for axis, c in enumerate(counts):
        outer.append(len(shape))
        shape.append(c)
        if axis in lengths:
            inner.append(len(shape))
            shape.append(lengths[axis])
    x = x.reshape(shape).transpose(*outer, *inner)
    return x.reshape(*counts, math.prod(spec.group))


def spread(groups: Any, shape: tuple[int, ...], spec: PatternSpec) -> Any:
    """Gives every entry of a leaf the flag of its group; True where it is in none."""
    lengths = dict(zip(spec.axes, spec.group, strict=True))
    # Each flag repeated along each cut axis, by broadcasting: no index array, no gather.
    dims, target, merged = [], [], []
    for axis, count in enumerate(groups.shape):
        length = lengths.get(axis, 1)
        dims += [count, 1]
        target += [count, length]
        merged.append(count * length)
    broadcast = np.broadcast_to if isinstance(groups, np.ndarray) else jnp.broadcast_to
    whole = broadcast(groups.reshape(dims), target).reshape(merged)
    return _resized(whole, shape, True)


def _resized(x: Any, shape: tuple[int, ...], value: Any) -> Any:
    """Cuts each axis off at its end, or extends it with a value."""
    x = x[tuple(slice(length) for length in shape)]
    if x.shape == shape:
        return x
    if isinstance(x, np.ndarray):
        pads = [(0, size - have) for size, have in zip(shape, x.shape, strict=True)]
        return np.pad(x, pads, constant_values=value)
    pads = [(0, size - have, 0) for size, have in zip(shape, x.shape, strict=True)]
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), pads)


def merge(groups: Any, shape: tuple[int, ...], spec: PatternSpec) -> Any:
    """Puts flags ``[*groups, group]`` back in place (the reverse of `split`); True elsewhere."""
    lengths = dict(zip(spec.axes, spec.group, strict=True))
    counts = groups.shape[:-1]
    x = groups.reshape(*counts, *spec.group)
    order: list[int] = []
    for axis in range(len(counts)):
        order.append(axis)
        if axis in lengths:
            order.append(len(counts) + spec.axes.index(axis))
    merged = [c * lengths.get(axis, 1) for axis, c in enumerate(counts)]
    return _resized(x.transpose(order).reshape(merged), shape, True)
