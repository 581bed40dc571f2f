"""Following axes through operations that put values side by side, and take them apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune._jaxpr import bind
from jaxprune.structured.analysis._alike import (
    Held,
    Labels,
    codes,
    operand_at,
    patterns,
    position_of,
)
from jaxprune.structured.analysis._rule import Kept, Rule, Step, with_params
from jaxprune.structured.analysis._tracked import NONE, Tracked, together
from jaxprune.structured.analysis._units import FIXED, Units
from jaxprune.structured.analysis.rules._layout import picked

Operands = Sequence[Tracked]


def _concatenate(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    along, first = eqn.params["dimension"], operands[0]
    nodes, zeros = list(first.nodes), list(first.zeros)
    for axis in range(len(nodes)):
        if axis == along:
            nodes[axis] = np.concatenate([value.nodes[axis] for value in operands])
            alone = nodes[axis] == FIXED
            if alone.any():
                text = "it is put together from axes of one position"
                nodes[axis] = np.where(alone, units.new_fixed(len(alone), text), nodes[axis])
            zeros[axis] = np.concatenate([value.zeros[axis] for value in operands])
            continue
        for value in operands[1:]:
            units.join_all(nodes[axis], value.nodes[axis])
        zeros[axis] = np.logical_and.reduce([value.zeros[axis] for value in operands])
    alike = []
    for axis, all_nodes in enumerate(nodes):
        if axis != along:
            alike.append(patterns([codes(value, axis, len(all_nodes)) for value in operands]))
            continue
        whose = np.repeat(1 + np.arange(len(operands)), [value.shape[axis] for value in operands])
        theirs = [codes(value, axis, value.shape[axis]) for value in operands]
        alike.append(patterns([whose, np.concatenate(theirs)]))
    return [Tracked(tuple(nodes), tuple(zeros), None, together(operands), tuple(alike))]


def _concatenate_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    del kept
    along, result = step.eqn.params["dimension"], step.results[0]
    places = {axis: position_of(result, axis, label) for axis, label in labels.items()}
    chosen = list(zip(step.operands, operands, strict=True))
    if along in places:
        ends = np.cumsum([value.shape[along] for value in step.operands])
        i = int(np.searchsorted(ends, places[along], side="right"))
        places[along] -= int(ends[i]) - step.operands[i].shape[along]
        chosen = [chosen[i]]
    arrays = []
    for value, held in chosen:
        found = {axis: int(codes(value, axis, value.shape[axis])[place])
                 for axis, place in places.items()}  # fmt: skip
        arrays.append(operand_at(value, held, found))
    return arrays[0] if along in places else bind(step.eqn, arrays)[0]


def _stack(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    at = eqn.params["axis"] % (len(operands[0].nodes) + 1)
    nodes, zeros = list(operands[0].nodes), list(operands[0].zeros)
    for axis in range(len(nodes)):
        for value in operands[1:]:
            units.join_all(nodes[axis], value.nodes[axis])
        zeros[axis] = np.logical_and.reduce([value.zeros[axis] for value in operands])
    nodes.insert(at, units.new_fixed(len(operands), "it is an axis of stacked values"))
    zeros.insert(at, np.ones(len(operands), bool))
    source = together(operands)
    if source is not None:
        source = (*source[:at], NONE, *source[at:])
    return [Tracked(tuple(nodes), tuple(zeros), None, source)]


def _unstack(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value = operands[0]
    at = eqn.params["axis"] % len(value.nodes)
    units.fix_all(value.nodes[at], "it is unstacked")
    rest = [a for a in range(len(value.nodes)) if a != at]
    return [value.with_axes(rest)] * len(eqn.outvars)


def _split(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    del units
    edges = np.cumsum([0, *eqn.params["sizes"]])
    pieces = itertools.pairwise(edges)
    return [picked(operands[0], eqn.params["axis"], np.arange(*piece)) for piece in pieces]


def _split_params(kept: Kept, step: Step) -> dict[str, Any]:
    axis = step.eqn.params["axis"]
    return {"sizes": tuple(kept.count(piece.nodes[axis]) for piece in step.results)}


RULES = {
    "concatenate": Rule(_concatenate, at=_concatenate_at),
    "stack": Rule(_stack),
    "unstack": Rule(_unstack),
    "split": Rule(_split, with_params(_split_params)),
}
