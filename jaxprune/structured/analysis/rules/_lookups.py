"""Following axes through operations that take or write positions by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.structured.analysis._rule import Kept, Rule, Step, shape_of, with_params
from jaxprune.structured.analysis._tracked import Tracked, fixed
from jaxprune.structured.analysis._units import Units

Operands = Sequence[Tracked]

_TEXT = "positions on it are looked up by index"


def _fix(units: Units, nodes: np.ndarray) -> None:
    units.use(nodes)
    units.fix_all(nodes, _TEXT)


def _gather(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, indices = operands
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = shape_of(eqn.outvars[0])
    nodes, zeros = map(list, fixed(units, shape, _TEXT)[:2])
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
        whole = sizes[axis] == len(old) and axis not in numbers.start_index_map
        if axis in places and whole:
            nodes[places[axis]], zeros[places[axis]] = old, value.zeros[axis]
        else:
            _fix(units, old)
    # An index out of range gives the filling, also where the looked-up slice would be zero. NaN,
    # the usual one, is in every channel alike and needs no care.
    filling = eqn.params.get("fill_value")
    if filling is not None and np.isfinite(filling) and filling != 0:
        zeros = [zero & units.is_fixed(x) for zero, x in zip(zeros, nodes, strict=True)]
    *batch, vector = indices.nodes
    units.fix_all(vector, _TEXT)
    rest = [axis for axis in range(len(shape)) if axis not in numbers.offset_dims]
    for i, (axis, old) in enumerate(zip(rest, batch, strict=True)):
        zero = value.zeros[in_step[i]] if i in in_step else np.zeros(len(old), bool)
        nodes[axis], zeros[axis] = old, zero | units.is_fixed(old)
    return [Tracked(tuple(nodes), tuple(zeros))]


def _sizes(kept: Kept, step: Step) -> dict[str, Any]:
    sizes = zip(step.eqn.params["slice_sizes"], step.operands[0].nodes, strict=True)
    return {"slice_sizes": tuple(kept.count(x) if n == len(x) else n for n, x in sizes)}


def _dynamic_slice(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, sizes = operands[0], eqn.params["slice_sizes"]
    nodes, zeros = list(value.nodes), list(value.zeros)
    for axis, n in enumerate(sizes):
        if n != len(nodes[axis]):
            _fix(units, nodes[axis])
            nodes[axis], zeros[axis] = units.new_fixed(n, _TEXT), np.ones(n, bool)
    data = any(index.source is None for index in operands[1:])
    return [Tracked(tuple(nodes), tuple(zeros), value.number, None if data else value.source)]


def _dynamic_update_slice(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    del eqn
    value, update = operands[:2]
    zeros = []
    for axis, old in enumerate(value.nodes):
        new = update.nodes[axis]
        if len(old) == len(new):
            units.join_all(old, new)
            zeros.append(value.zeros[axis] & update.zeros[axis])
        else:
            _fix(units, old)
            _fix(units, new)
            zeros.append(value.zeros[axis])
    return [Tracked(value.nodes, tuple(zeros))]


RULES = {
    "gather": Rule(_gather, with_params(_sizes)),
    "dynamic_slice": Rule(_dynamic_slice, with_params(_sizes)),
    "dynamic_update_slice": Rule(_dynamic_update_slice),
}
