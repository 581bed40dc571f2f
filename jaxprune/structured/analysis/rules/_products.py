"""Following axes through matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune._jaxpr import bind
from jaxprune.structured.analysis._alike import (
    UNKNOWN,
    ZERO,
    Held,
    Labels,
    codes,
    operand_at,
    patterns,
    position_of,
)
from jaxprune.structured.analysis._roles import is_statistic
from jaxprune.structured.analysis._rule import Kept, Rule, Step, shape_of
from jaxprune.structured.analysis._tracked import NONE, Tracked, fixed, fresh
from jaxprune.structured.analysis._units import Units
from jaxprune.structured.analysis.rules._reductions import contract, number

Operands = Sequence[Tracked]

_TEXT = "a product sums over it, and neither operand is zero where it is masked"


def _dot(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    contracted, batch = eqn.params["dimension_numbers"]
    axes = _dot_axes(units, operands, contracted, batch, corrected=True)
    source = None
    if all(value.source is not None for value in operands):
        source = tuple((operands[i].source or ())[a] for i, a, *_ in axes)
        if is_statistic(operands, batch):
            source = (NONE,) * len(axes)
    alike = tuple(patterns(columns) for columns in _columns(eqn, operands))
    nodes, zeros = tuple(x for *_, x, _ in axes), tuple(zero for *_, zero in axes)
    return [Tracked(nodes, zeros, None, source, alike)]


def _places(eqn: JaxprEqn, ranks: Sequence[int]) -> list[list[tuple[int, int]]]:
    """For each axis of a product where it comes from: (operand, axis of it)."""
    contracted, batch = eqn.params["dimension_numbers"]
    places = [[(0, a), (1, b)] for a, b in zip(*batch, strict=True)]
    for i, rank in enumerate(ranks):
        free = [a for a in range(rank) if a not in contracted[i] and a not in batch[i]]
        places += [[(i, a)] for a in free]
    return places


def _columns(eqn: JaxprEqn, operands: Operands) -> list[list[np.ndarray]]:
    """For each axis of a product what its operands hold there."""
    places = _places(eqn, [len(value.nodes) for value in operands])
    return [[codes(operands[i], a, operands[i].shape[a]) for i, a in ours] for ours in places]


def _dot_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    contracted, _ = step.eqn.params["dimension_numbers"]
    places = _places(step.eqn, [len(value.nodes) for value in step.operands])
    start: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for axis, label in labels.items():
        place = position_of(step.results[0], axis, label)
        for i, a in places[axis]:
            start[i][a] = int(codes(step.operands[i], a, step.operands[i].shape[a])[place])
    return with_masked(kept, step, operands, list(zip(*contracted, strict=True)), start)


def with_masked(
    kept: Kept,
    step: Step,
    operands: Sequence[Held],
    summed: Sequence[tuple[int, int]],
    start: tuple[dict[int, int], dict[int, int]],
    evaluate: Callable[[Sequence[Any]], Any] | None = None,
) -> Any:
    """A product of what is kept, and of what masked positions of its summed axes hold.

    Args:
      kept: which positions stay.
      step: the product.
      operands: its operands.
      summed: the pairs of axes that it sums over.
      start: for each operand the codes of axes that are masked already.
      evaluate: the product of two arrays, if not the equation itself.
    """
    lhs, rhs = step.operands[:2]
    missing = {}
    for a, b in summed:
        ours, theirs = codes(lhs, a, lhs.shape[a]), codes(rhs, b, rhs.shape[b])
        gone = ~kept.positions(lhs.nodes[a]) & (ours != ZERO) & (theirs != ZERO)
        if gone.any():
            pairs = np.stack([ours[gone], theirs[gone]])
            found, numbers = np.unique(pairs, axis=1, return_counts=True)
            missing[a, b] = list(zip(*found.tolist(), numbers.tolist(), strict=True))

    def total(left: dict[int, int], right: dict[int, int], open_: Sequence[tuple[int, int]]) -> Any:
        if not open_:
            pairs = zip(step.operands, operands, (left, right), strict=True)
            arrays = [operand_at(value, held, found) for value, held, found in pairs]
            return evaluate(arrays) if evaluate else bind(step.eqn, arrays)[0]
        (a, b), *others = open_
        result = total(left, right, others)
        for ours, theirs, n in missing[a, b]:
            there = total({**left, a: ours}, {**right, b: theirs}, others)
            result = result + there * number(n, there)
        return result

    return total(*start, list(missing))


def _dot_axes(
    units: Units,
    operands: Operands,
    contracted: Sequence[Any],
    batch: Sequence[Any],
    *,
    corrected: bool = False,
) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    """The axes of a product: (operand, axis of it, nodes, zeros), in order."""
    lhs, rhs = operands
    for a, b in zip(*contracted, strict=True):
        units.join_all(lhs.nodes[a], rhs.nodes[b])
        zero = lhs.zeros[a] | rhs.zeros[b]
        if corrected:
            ours, theirs = codes(lhs, a, lhs.shape[a]), codes(rhs, b, rhs.shape[b])
            zero |= (ours != UNKNOWN) & (theirs != UNKNOWN)
        contract(units, lhs.nodes[a], zero, _TEXT)
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
        ours, theirs = codes(lhs, c, lhs.shape[c]), codes(kernel, i, kernel.shape[i])
        known = (ours != UNKNOWN) & (theirs != UNKNOWN)
        contract(units, kernel.nodes[i], lhs.zeros[c] | kernel.zeros[i] | known, _TEXT)
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


def _conv_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    del labels  # results have none
    numbers = step.eqn.params["dimension_numbers"]
    eqn = step.eqn.replace(params={**step.eqn.params, **_conv_params(kept, step)})
    plain = step.eqn.params["feature_group_count"] == step.eqn.params["batch_group_count"] == 1
    summed = [(numbers.lhs_spec[1], numbers.rhs_spec[1])] if plain else []
    return with_masked(kept, step, operands, summed, ({}, {}), lambda arrays: bind(eqn, arrays)[0])


def _conv_params(kept: Kept, step: Step) -> dict[str, Any]:
    if step.eqn.params["feature_group_count"] == 1:
        return {}
    lhs, kernel = step.operands
    numbers = step.eqn.params["dimension_numbers"]
    channels = kept.count(lhs.nodes[numbers.lhs_spec[1]])
    per_group = kept.count(kernel.nodes[numbers.rhs_spec[1]])
    return {"feature_group_count": channels // per_group}


RULES = {
    "dot_general": Rule(_dot, at=_dot_at),
    "ragged_dot_general": Rule(_ragged),
    "conv_general_dilated": Rule(_conv, at=_conv_at),
}
