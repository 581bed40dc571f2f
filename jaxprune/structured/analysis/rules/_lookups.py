"""Following axes through operations that take positions by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.structured.analysis._rule import Kept, Rule, Step, shape_of, with_params
from jaxprune.structured.analysis._tracked import NONE, Source, Tracked, fixed
from jaxprune.structured.analysis._units import Units

Operands = Sequence[Tracked]

TEXT = "positions on it are looked up by index"


def fix(units: Units, nodes: np.ndarray) -> None:
    """Positions that an index may name stay where they are."""
    units.use(nodes)
    units.fix_all(nodes, TEXT)


def _gather(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, indices = operands
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = shape_of(eqn.outvars[0])
    nodes, zeros = map(list, fixed(units, shape, TEXT)[:2])
    # Of which axis of the operand an axis of the result is.
    origin: dict[int, int] = {}
    inside = [
        axis
        for axis in range(len(sizes))
        if axis not in numbers.collapsed_slice_dims and axis not in numbers.operand_batching_dims
    ]
    places = dict(zip(inside, numbers.offset_dims, strict=True))
    # Axes along which operand and indices go in step, as in a mapped lookup.
    in_step = dict(
        zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims, strict=True)
    )
    for theirs, ours in in_step.items():
        units.join_all(value.nodes[ours], indices.nodes[theirs])
    for axis, old in enumerate(value.nodes):
        if axis in in_step.values():
            continue
        # A slice as long as its axis starts at 0, or is out of range whatever is left of the axis.
        if axis in places and sizes[axis] == len(old):
            nodes[places[axis]], zeros[places[axis]] = old, value.zeros[axis]
            origin[places[axis]] = axis
        else:
            fix(units, old)
    *batch, vector = indices.nodes
    units.fix_all(vector, TEXT)
    rest = [axis for axis in range(len(shape)) if axis not in numbers.offset_dims]
    for i, (axis, old) in enumerate(zip(rest, batch, strict=True)):
        zero = value.zeros[in_step[i]] if i in in_step else np.zeros(len(old), bool)
        nodes[axis], zeros[axis] = old, zero | units.is_fixed(old)
        if i in in_step:
            origin[axis] = in_step[i]
    # An index out of range gives the filling, also where the looked-up slice would be zero. NaN,
    # the usual one, is in every channel alike and needs no care.
    filling = eqn.params.get("fill_value")
    if filling is not None and np.isfinite(filling) and filling != 0:
        zeros = [zero & units.is_fixed(x) for zero, x in zip(zeros, nodes, strict=True)]
    source = _looked_up(value, indices.source, len(shape), origin, shape)
    return [Tracked(tuple(nodes), tuple(zeros), None, source)]


def _looked_up(
    value: Tracked, index: Source, rank: int, origin: dict[int, int], shape: Sequence[int]
) -> Source:
    """Data may say which of several kernels it is; a vector that data looks up is data."""
    window = [axis for axis in origin if shape[axis] > 1]
    if value.source is None or (index is None and len(window) < 2):
        return None
    return tuple(value.source[origin[a]] if a in origin else NONE for a in range(rank))


def _sizes(kept: Kept, step: Step) -> dict[str, Any]:
    sizes = zip(step.eqn.params["slice_sizes"], step.operands[0].nodes, strict=True)
    return {"slice_sizes": tuple(kept.count(x) if n == len(x) else n for n, x in sizes)}


def _dynamic_slice(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, sizes = operands[0], eqn.params["slice_sizes"]
    nodes, zeros = list(value.nodes), list(value.zeros)
    for axis, n in enumerate(sizes):
        if n != len(nodes[axis]):
            fix(units, nodes[axis])
            nodes[axis], zeros[axis] = units.new_fixed(n, TEXT), np.ones(n, bool)
    data = any(index.source is None for index in operands[1:])
    whole = {axis: axis for axis, n in enumerate(sizes) if n == len(value.nodes[axis])}
    source = _looked_up(value, None if data else (), len(sizes), whole, sizes)
    return [Tracked(tuple(nodes), tuple(zeros), value.number, source)]


RULES = {
    "gather": Rule(_gather, with_params(_sizes)),
    "dynamic_slice": Rule(_dynamic_slice, with_params(_sizes)),
}
