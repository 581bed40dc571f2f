"""Following axes through operations that write to positions by index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.structured.analysis._rule import Rule
from jaxprune.structured.analysis._tracked import NONE, Tracked, fixed, together
from jaxprune.structured.analysis._units import Units
from jaxprune.structured.analysis.rules._lookups import fix
from jaxprune.structured.analysis.rules._reductions import contract

Operands = Sequence[Tracked]

_SUMS = frozenset({"scatter-add", "scatter-sub"})


def _scatter(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, indices, updates = operands
    name, numbers = eqn.primitive.name, eqn.params["dimension_numbers"]
    if name == "scatter" and eqn.params["update_jaxpr"] is not None:
        text = "a function is applied at positions that are looked up by index"
        for nodes in (nodes for operand in operands for nodes in operand.nodes):
            units.use(nodes)
            units.fix_all(nodes, text)
        return [fixed(units, value.shape, text)]
    zeros = list(value.zeros)
    inside = [
        axis
        for axis in range(len(value.nodes))
        if axis not in numbers.inserted_window_dims and axis not in numbers.operand_batching_dims
    ]
    places = dict(zip(inside, numbers.update_window_dims, strict=True))
    # Axes along which all three go in step, as in a mapped update.
    in_step = dict(
        zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True)
    )
    # A product with zero is zero whatever it is multiplied by.
    written = [z | np.bool_(name == "scatter-mul") for z in updates.zeros]
    for axis, old in enumerate(value.nodes):
        if axis in in_step.values():
            continue
        if axis not in places:
            fix(units, old)
            continue
        new = updates.nodes[places[axis]]
        if len(new) == len(old):  # it starts at 0, or is out of range whatever is left of the axis
            units.join_all(old, new)
            zeros[axis] = zeros[axis] & written[places[axis]]
        else:
            fix(units, old)
            fix(units, new)
    *batch, vector = indices.nodes
    fix(units, vector)
    rest = [axis for axis in range(len(updates.nodes)) if axis not in numbers.update_window_dims]
    for i, (axis, theirs) in enumerate(zip(rest, batch, strict=True)):
        new = updates.nodes[axis]
        units.join_all(new, theirs)
        if i in in_step:
            units.join_all(value.nodes[in_step[i]], new)
            zeros[in_step[i]] = zeros[in_step[i]] & written[axis]
        elif name in _SUMS:
            text = "it is added up by index, and what is added is not zero where it is masked"
            contract(units, new, updates.zeros[axis], text)
        else:
            fix(units, new)
    source = None
    if value.source is not None and indices.source is not None and updates.source is not None:
        theirs = {ours: updates.source[place] for ours, place in places.items()}
        source = tuple(s | theirs.get(a, NONE) for a, s in enumerate(value.source))
    return [Tracked(value.nodes, tuple(zeros), None, source)]


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
            fix(units, old)
            fix(units, new)
            zeros.append(value.zeros[axis])
    data = any(index.source is None for index in operands[2:])
    source = None if data else together(operands[:2])
    return [Tracked(value.nodes, tuple(zeros), None, source)]


_SCATTERS = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")

RULES = {
    **{name: Rule(_scatter) for name in _SCATTERS},
    "dynamic_update_slice": Rule(_dynamic_update_slice),
}
