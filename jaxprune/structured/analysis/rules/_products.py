"""Following axes through matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.structured.analysis._roles import is_statistic
from jaxprune.structured.analysis._rule import Kept, Rule, Step, shape_of, with_params
from jaxprune.structured.analysis._tracked import NONE, Tracked, fixed, fresh
from jaxprune.structured.analysis._units import Units
from jaxprune.structured.analysis.rules._reductions import contract

Operands = Sequence[Tracked]

_TEXT = "a product sums over it, and neither operand is zero where it is masked"


def _dot(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    contracted, batch = eqn.params["dimension_numbers"]
    axes = _dot_axes(units, operands, contracted, batch)
    source = None
    if all(value.source is not None for value in operands):
        source = tuple((operands[i].source or ())[a] for i, a, *_ in axes)
        if is_statistic(operands, batch):
            source = (NONE,) * len(axes)
    return [Tracked(tuple(x for *_, x, _ in axes), tuple(zero for *_, zero in axes), None, source)]


def _dot_axes(
    units: Units, operands: Operands, contracted: Sequence[Any], batch: Sequence[Any]
) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    """The axes of a product: (operand, axis of it, nodes, zeros), in order."""
    lhs, rhs = operands
    for a, b in zip(*contracted, strict=True):
        units.join_all(lhs.nodes[a], rhs.nodes[b])
        contract(units, lhs.nodes[a], lhs.zeros[a] | rhs.zeros[b], _TEXT)
    axes = []
    for a, b in zip(*batch, strict=True):
        units.join_all(lhs.nodes[a], rhs.nodes[b])
        axes.append((0, a, lhs.nodes[a], lhs.zeros[a] | rhs.zeros[b]))
    for i, (value, taken, batched) in enumerate(zip(operands, contracted, batch, strict=True)):
        for axis in range(len(value.nodes)):
            if axis not in taken and axis not in batched:
                axes.append((i, axis, value.nodes[axis], value.zeros[axis]))
    return axes


def _ragged(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    """Products with another matrix for every group of rows (experts)."""
    lhs, rhs, counts = operands
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contracted, batch = numbers.dot_dimension_numbers
    (ragged,), grouped = numbers.lhs_ragged_dimensions, set(numbers.rhs_group_dimensions)
    for nodes in (lhs.nodes[ragged], *(rhs.nodes[a] for a in grouped), *counts.nodes):
        units.use(nodes)
        units.fix_all(nodes, "the rows of a product are counted by group")
    if len(counts.nodes) > 1:  # counted anew along other axes of the first operand, too
        for axis, nodes in enumerate(lhs.nodes):
            if axis not in contracted[0] or ragged in contracted[0]:
                units.use(nodes)
                units.fix_all(nodes, "the rows of a product are counted by group")
    plain, taken = _dot_axes(units, (lhs, rhs), contracted, batch), counts.shape[-1]
    axes = [pair for pair in plain if pair[:2] not in {(1, a) for a in grouped}]
    nodes, zeros = [x for *_, x, _ in axes], [zero for *_, zero in axes]
    if ragged in contracted[0]:  # one product a group
        nodes.insert(0, units.new_fixed(taken, "it is an axis of groups of rows"))
        zeros.insert(0, np.ones(taken, bool))
    return [Tracked(tuple(nodes), tuple(zeros))]


def _conv(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    lhs, kernel = operands
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    shape = shape_of(eqn.outvars[0])
    if eqn.params["batch_group_count"] != 1:
        text = "the convolution groups its batch"
        for nodes in (*lhs.nodes, *kernel.nodes):
            units.use(nodes)
            units.fix_all(nodes, text)
        return [fixed(units, shape, text)]
    (n, c, *spatial), (o, i, *window) = numbers.lhs_spec, numbers.rhs_spec
    for nodes in (*(lhs.nodes[a] for a in spatial), *(kernel.nodes[a] for a in window)):
        units.use(nodes)
        units.fix_all(nodes, "the convolution moves along it")
    outputs = kernel.nodes[o]
    if groups == 1:
        units.join_all(lhs.nodes[c], kernel.nodes[i])
        contract(units, kernel.nodes[i], lhs.zeros[c] | kernel.zeros[i], _TEXT)
    else:
        # Channel (k, i) of the input meets the outputs (k, d); either a whole group k goes, or
        # channel i of every group, or output d of every group.
        per_group, each = len(kernel.nodes[i]), len(outputs) // groups
        group, _ = fresh(units, groups, zero=True)
        filters, _ = fresh(units, each, zero=True)
        inputs = units.merge_all(np.repeat(group, per_group), np.tile(kernel.nodes[i], groups))
        units.join_all(lhs.nodes[c], inputs)
        units.use(lhs.nodes[c])
        units.join_all(outputs, units.merge_all(np.repeat(group, each), np.tile(filters, groups)))
        zero = lhs.zeros[c].reshape(groups, per_group).all(0) | kernel.zeros[i]
        contract(units, kernel.nodes[i], zero, _TEXT)
    nodes = [units.new_fixed(size, "it is an axis of an image") for size in shape]
    zeros = [np.ones(size, bool) for size in shape]
    batch_out, feature_out = numbers.out_spec[:2]
    nodes[batch_out], zeros[batch_out] = lhs.nodes[n], lhs.zeros[n]
    nodes[feature_out], zeros[feature_out] = outputs, kernel.zeros[o]
    return [Tracked(tuple(nodes), tuple(zeros))]


def _conv_params(kept: Kept, step: Step) -> dict[str, Any]:
    if step.eqn.params["feature_group_count"] == 1:
        return {}
    lhs, kernel = step.operands
    numbers = step.eqn.params["dimension_numbers"]
    channels = kept.count(lhs.nodes[numbers.lhs_spec[1]])
    per_group = kept.count(kernel.nodes[numbers.rhs_spec[1]])
    return {"feature_group_count": channels // per_group}


RULES = {
    "dot_general": Rule(_dot),
    "ragged_dot_general": Rule(_ragged),
    "conv_general_dilated": Rule(_conv, with_params(_conv_params)),
}
