"""Which equations of a jaxpr only rearrange a parameter, and how.

A reshape, a transpose, a cast, a mask or a constant factor leaves a parameter recognisable: what
comes out is a linear function of it, with at most one parameter entry in each result entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune import _tree
from jaxprune._jaxpr._walk import aval, bind

# Every entry of the result is an entry of the first operand, up to sign and precision.
_SAME = frozenset(
    {
        "convert_element_type", "copy", "copy_p", "reduce_precision", "sharding_constraint",
        "device_put", "stop_gradient", "neg", "conj", "name", "mesh_cast", "reshard",
    }
)  # fmt: skip

# Every entry of the result is an entry of some operand, or a constant.
_MOVES = frozenset(
    {
        "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "rev",
        "split", "dynamic_slice", "gather", "concatenate", "pad", "select_n", "stack", "unstack",
        "tile",
    }
)  # fmt: skip


class Origin(NamedTuple):
    """A value as a linear function of the roots of its scope."""

    roots: frozenset[int]
    rebuild: Callable[[Mapping[int, jax.Array]], jax.Array]
    # For each axis of the value the axes of the root that it runs over; None if not known.
    axes: tuple[frozenset[int], ...] | None


@dataclass(frozen=True)
class Value:
    array: Any
    data: bool = False  # depends on the data
    origin: Origin | None = None
    # The paths of parameters that it is made of in another way than `origin` says; empty for an
    # activation. They are in `stopped` where the gradient is stopped behind that other way.
    lost: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()

    @property
    def strays(self) -> frozenset[str]:
        return self.lost | self.stopped


def rearranged(
    eqn: JaxprEqn, operands: Sequence[Value], dtype: Any, kinds: Callable[[Any], bool]
) -> list[Origin | None]:
    """The origins of an equation's results, `None` where it is no rearrangement.

    Args:
      eqn: the equation.
      operands: what is known of its operands.
      dtype: of totals.
      kinds: which results are followed.
    """
    name, first = eqn.primitive.name, operands[0]
    unknown: list[Origin | None] = [None] * len(eqn.outvars)
    if any(v.data for v in operands) or (name == "stop_gradient" and first.strays):
        return unknown
    if name in _SAME:
        return [first.origin if kinds(aval(eqn.outvars[0])) else None]
    if name in _MOVES:
        return [_moved(eqn, operands, dtype, i) for i in range(len(eqn.outvars))]
    if name in ("mul", "div", "add", "add_any", "sub"):
        return [_combined(eqn, operands, dtype)]
    return unknown


def strays(
    eqn: JaxprEqn,
    operands: Sequence[Value],
    origin: Origin | None,
    leaves: Callable[[Value], frozenset[str]],
) -> tuple[frozenset[str], frozenset[str]]:
    """What a result of the given origin has lost, and has lost behind a stopped gradient.

    Two ways in which a weight depends on itself count as constants: a factor, mask or index that is
    computed from it (``w / norm(w)``), because the result is still the weight times something; and
    a summand behind `stop_gradient` (``w + stop_gradient(round(w) - w)``), because that is how a
    straight-through estimator is written.
    """
    name = eqn.primitive.name
    if name == "select_n" and operands[0].data:  # chooses between parameters; is none itself
        operands = operands[1:]
    if any(v.data and not v.strays for v in operands):
        return frozenset(), frozenset()
    if origin is None:
        lost = frozenset().union(*(leaves(v) | v.lost for v in operands))
        stopped = frozenset().union(*(v.stopped for v in operands))
    else:
        ours = frozenset().union(*(leaves(v) for v in operands))
        lost, stopped = frozenset(), frozenset()
        for v in operands:
            factor = name in ("mul", "div") and v.origin is None
            factor |= name in _MOVES and not _tree.is_floating(v.array)
            summand = name in ("add", "add_any", "sub") and v.origin is None
            lost |= v.lost - ours if factor else v.lost
            stopped |= v.stopped - ours if factor or summand else v.stopped
    if name == "stop_gradient":
        return frozenset(), lost | stopped
    return lost, stopped


def _moved(eqn: JaxprEqn, operands: Sequence[Value], dtype: Any, result: int) -> Origin:
    tracked = [v.origin for v in operands if v.origin]

    def rebuild(roots: Mapping[int, jax.Array]) -> jax.Array:
        arrays = []
        for v in operands:
            if v.origin:
                arrays.append(v.origin.rebuild(roots))
            elif _tree.is_floating(v.array) or isinstance(v.array, float):
                arrays.append(jnp.zeros(np.shape(v.array), dtype))  # the linear part only
            else:
                arrays.append(v.array)
        return bind(eqn, arrays)[result]

    axes = _moved_axes(eqn, tracked[0].axes) if len(tracked) == 1 else None
    return Origin(frozenset().union(*(o.roots for o in tracked)), rebuild, axes)


def _combined(eqn: JaxprEqn, operands: Sequence[Value], dtype: Any) -> Origin | None:
    """A sum of rearrangements, or one of them times a constant."""
    name = eqn.primitive.name
    tracked = [v.origin for v in operands if v.origin]
    shape = aval(eqn.outvars[0]).shape
    if any(v.origin and np.shape(v.array) != shape for v in operands):
        return None
    if name in ("mul", "div"):
        if len(tracked) > 1 or (name == "div" and operands[1].origin):
            return None
        constant = next(v.array for v in operands if not v.origin)
        constant = jnp.asarray(constant)
        constant = jnp.abs(constant) if jnp.iscomplexobj(constant) else constant
        factor = jnp.square(constant.astype(dtype))
        factor = 1 / factor if name == "div" else factor
        axes = tracked[0].axes if factor.ndim == 0 else None
        return Origin(tracked[0].roots, lambda r: tracked[0].rebuild(r) * factor, axes)
    if len(tracked) == 1:
        return tracked[0]
    if tracked[0].roots & tracked[1].roots:
        return None  # the factors of one parameter would have to be added before they are squared
    a, b = tracked
    return Origin(a.roots | b.roots, lambda r: a.rebuild(r) + b.rebuild(r), None)


def _moved_axes(
    eqn: JaxprEqn, axes: tuple[frozenset[int], ...] | None
) -> tuple[frozenset[int], ...] | None:
    name, params = eqn.primitive.name, eqn.params
    old, new = aval(eqn.invars[0]).shape, aval(eqn.outvars[0]).shape
    if axes is None:
        return None
    if name == "transpose":
        return tuple(axes[axis] for axis in params["permutation"])
    if name == "broadcast_in_dim":
        place = dict(zip(params["broadcast_dimensions"], axes, strict=True))
        return tuple(place.get(axis, frozenset()) for axis in range(len(new)))
    if name in ("reshape", "squeeze", "expand_dims") and math.prod(old) > 0:
        return _reshaped_axes(axes, old, new)
    return None


def _reshaped_axes(
    axes: tuple[frozenset[int], ...], old: Sequence[int], new: Sequence[int]
) -> tuple[frozenset[int], ...]:
    """Matches the shortest runs of axes that hold equally many entries."""
    result: list[frozenset[int]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start, before, after = i, 1, 1
        n_new = 0
        if i < len(old):
            before, i = old[i], i + 1
        if j < len(new):
            after, j, n_new = new[j], j + 1, 1
        while before != after:
            if before < after:
                before, i = before * old[i], i + 1
            else:
                after, j, n_new = after * new[j], j + 1, n_new + 1
        result += [frozenset().union(*axes[start:i])] * n_new
    return tuple(result)
