"""Following axes through operations that only move entries about."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune._jaxpr import bind
from jaxprune.structured.analysis._alike import (
    Held,
    Labels,
)
from jaxprune.structured.analysis._rule import (
    Kept,
    Rule,
    Step,
    shape_of,
    whole_then_taken,
    with_params,
)
from jaxprune.structured.analysis._tracked import (
    NONE,
    Tracked,
    fixed,
    fresh,
    merged,
    split,
)
from jaxprune.structured.analysis._units import FIXED, Units

Operands = Sequence[Tracked]


def _broadcast(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, shape = operands[0], eqn.params["shape"]
    place = {new: old for old, new in enumerate(eqn.params["broadcast_dimensions"])}
    zero = value.number is not None and not np.any(value.number)
    nodes, zeros, source, alike = [], [], [], []
    for axis, n in enumerate(shape):
        old = place.get(axis)
        if old is not None and len(value.nodes[old]) == n:
            alike.append(_labels(value, old))
            nodes.append(value.nodes[old])
            zeros.append(value.zeros[old])
            source.append(NONE if value.source is None else value.source[old])
            continue
        if old is not None:
            units.fix_all(value.nodes[old], "it is repeated")
        axis_nodes, axis_zeros = fresh(units, n, zero=zero)
        nodes.append(axis_nodes)
        zeros.append(axis_zeros)
        source.append(NONE)
        alike.append(np.ones(n, np.int64))
    sources = None if value.source is None else tuple(source)
    return [Tracked(tuple(nodes), tuple(zeros), value.number, sources, tuple(alike))]


def _labels(value: Tracked, axis: int) -> np.ndarray:
    return np.zeros(len(value.nodes[axis]), np.int64) if value.alike is None else value.alike[axis]


def _sizes(kept: Kept, step: Step, labels: Labels) -> tuple[int, ...]:
    """Of what is kept of the result, or of what masked positions of it hold."""
    shape = enumerate(kept.shape(step.results[0]))
    return tuple(1 if axis in labels else n for axis, n in shape)


def _broadcast_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    sizes = [len(nodes) for nodes in step.results[0].nodes]
    ours = {
        old: labels[new]
        for old, new in enumerate(step.eqn.params["broadcast_dimensions"])
        if new in labels and len(step.operands[0].nodes[old]) == sizes[new]
    }
    params = {**step.eqn.params, "shape": _sizes(kept, step, labels)}
    return bind(step.eqn.replace(params=params), [operands[0].at(ours)])[0]


def _reshape(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, new = operands[0], shape_of(eqn.outvars[0])
    if (order := eqn.params.get("dimensions")) is not None:  # transposed first
        value = value.with_axes(order)._replace(number=value.number)
    if math.prod(new) == 0:
        text = "it is an axis of no entries"
        for old in value.nodes:
            units.fix_all(old, text)
        return [fixed(units, new, text)]
    for old in value.nodes:
        if len(old) == 1:
            units.fix_all(old, "it is dropped as an axis of size one")
    nodes: list[np.ndarray] = [np.full(1, FIXED, np.int64)] * len(new)
    zeros: list[np.ndarray] = [np.ones(1, bool)] * len(new)
    source = [NONE] * len(new)
    alike = [np.zeros(n, np.int64) for n in new]
    for old_axes, new_axes in _runs(value.shape, new):
        recut = _recut(units, value.with_axes(old_axes), [new[a] for a in new_axes])
        for i, axis in enumerate(new_axes):
            nodes[axis], zeros[axis] = recut.nodes[i], recut.zeros[i]
            source[axis] = NONE if recut.source is None else recut.source[i]
        if len(old_axes) == len(new_axes) == 1:
            alike[new_axes[0]] = _labels(value, old_axes[0])
    sources = None if value.source is None else tuple(source)
    return [Tracked(tuple(nodes), tuple(zeros), value.number, sources, tuple(alike))]


def _reshape_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    value, result = step.operands[0], step.results[0]
    order = step.eqn.params.get("dimensions")
    order = tuple(range(len(value.nodes))) if order is None else tuple(order)
    runs = _runs([value.shape[axis] for axis in order], result.shape)
    ours = {order[old[0]]: labels[new[0]] for old, new in runs if new[0] in labels}
    params = {**step.eqn.params, "new_sizes": _sizes(kept, step, labels)}
    return bind(step.eqn.replace(params=params), [operands[0].at(ours)])[0]


def _recut(units: Units, value: Tracked, sizes: Sequence[int]) -> Tracked:
    """Cuts the axes of a value and puts the pieces together to axes of other sizes."""
    edges = [list(itertools.accumulate(n, operator.mul)) for n in (value.shape, sizes)]
    common = sorted({1, *edges[0], *edges[1]})
    if any(b % a for a, b in itertools.pairwise(common)):
        # No common pieces, as of [4, 6] and [6, 4]: one axis of all, cut anew.
        nodes, zeros = merged(units, value, range(len(value.nodes)))
        source = None if value.source is None else (NONE.union(*value.source),)
        value = Tracked((nodes,), (zeros,), None, source)
        edges[0], common = [common[-1]], [1, *edges[1]]
    pieces: list[Any] = []  # (nodes, zeros, source), from edge to edge
    for axis, (start, stop) in enumerate(itertools.pairwise([1, *edges[0]])):
        inside = [n for n in common if start <= n <= stop]
        cut = [b // a for a, b in itertools.pairwise(inside)]
        nodes, zeros = [value.nodes[axis]], [value.zeros[axis]]
        if len(cut) > 1:
            nodes, zeros = split(units, nodes[0], zeros[0], cut)
        source = NONE if value.source is None else value.source[axis]
        pieces += zip(nodes, zeros, [source] * len(cut), strict=True)
    results = []
    for start, stop in itertools.pairwise([1, *edges[1]]):
        ours = pieces[common.index(start) : common.index(stop)]
        nodes, zeros, sources = zip(*ours, strict=True)
        results.append(
            (*merged(units, Tracked(nodes, zeros), range(len(ours))), NONE.union(*sources))
        )
    nodes, zeros, sources = zip(*results, strict=True)
    return Tracked(nodes, zeros, None, None if value.source is None else sources)


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes, of size above one, that hold equally many entries."""
    left = [a for a, n in enumerate(old) if n > 1]
    right = [a for a, n in enumerate(new) if n > 1]
    runs = []
    while left:
        ours, theirs = [left.pop(0)], [right.pop(0)]
        before, after = old[ours[0]], new[theirs[0]]
        while before != after:
            if before < after:
                ours.append(left.pop(0))
                before *= old[ours[-1]]
            else:
                theirs.append(right.pop(0))
                after *= new[theirs[-1]]
        runs.append((ours, theirs))
    return runs


def _squeeze(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value = operands[0]
    dropped = {d % len(value.nodes) for d in eqn.params["dimensions"]}
    for axis in dropped:
        units.fix_all(value.nodes[axis], "it is dropped as an axis of size one")
    rest = [a for a in range(len(value.nodes)) if a not in dropped]
    return [value.with_axes(rest)._replace(number=value.number)]


def _squeeze_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    del kept
    rank = len(step.operands[0].nodes)
    dropped = {d % rank for d in step.eqn.params["dimensions"]}
    rest = [a for a in range(rank) if a not in dropped]
    return bind(step.eqn, [operands[0].at({rest[a]: label for a, label in labels.items()})])[0]


def _transpose(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    del units
    value = operands[0]
    return [value.with_axes(eqn.params["permutation"])._replace(number=value.number)]


def _transpose_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    del kept
    order = step.eqn.params["permutation"]
    return bind(step.eqn, [operands[0].at({order[a]: label for a, label in labels.items()})])[0]


def picked(value: Tracked, axis: int, positions: np.ndarray) -> Tracked:
    """What is known of a value when only some positions of an axis are taken of it."""
    nodes, zeros = list(value.nodes), list(value.zeros)
    nodes[axis], zeros[axis] = nodes[axis][positions], zeros[axis][positions]
    alike = value.alike
    if alike is not None:
        alike = (*alike[:axis], alike[axis][positions], *alike[axis + 1 :])
    return value._replace(nodes=tuple(nodes), zeros=tuple(zeros), alike=alike)


def _slices(eqn: JaxprEqn) -> list[np.ndarray]:
    """The positions that a slice takes of each axis."""
    start, limit = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(start)
    return [np.arange(*triple) for triple in zip(start, limit, strides, strict=True)]


def _slice(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    del units
    value = operands[0]
    for axis, positions in enumerate(_slices(eqn)):
        value = picked(value, axis, positions)
    return [value]


def _slice_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    array = operands[0].at(labels)
    for axis, positions in enumerate(_slices(step.eqn)):
        if axis in labels:
            continue
        stays = kept.positions(step.operands[0].nodes[axis])
        wanted = (np.cumsum(stays) - 1)[positions[stays[positions]]]
        if len(wanted) == array.shape[axis]:
            continue
        steps = np.unique(np.diff(wanted))
        if len(wanted) and len(steps) <= 1:
            stride = int(steps[0]) if len(steps) else 1
            start, stop = int(wanted[0]), int(wanted[-1]) + 1
            array = jax.lax.slice_in_dim(array, start, stop, stride, axis)
        else:
            array = array.take(wanted, axis=axis)
    return array


def _rev(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    del units
    value = operands[0]
    for axis in eqn.params["dimensions"]:
        value = picked(value, axis, np.arange(len(value.nodes[axis]))[::-1])
    return [value]


def _tile(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value = operands[0]
    for axis, times in enumerate(eqn.params["reps"]):
        value = picked(value, axis, np.tile(np.arange(len(value.nodes[axis])), times))
        if (value.nodes[axis] == FIXED).all():
            repeated = units.new_fixed(len(value.nodes[axis]), "it is an axis of repetitions")
            value = value._replace(nodes=(*value.nodes[:axis], repeated, *value.nodes[axis + 1 :]))
    return [value]


def _pad(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, filling = operands
    padded_with_zero = filling.number is not None and not np.any(filling.number)
    config = eqn.params["padding_config"]
    nodes, zeros = [], []
    for axis, (low, high, interior) in enumerate(config):
        old, old_zeros = value.nodes[axis], value.zeros[axis]
        if any(any(c) for a, c in enumerate(config) if a != axis):
            old_zeros = old_zeros & (padded_with_zero | units.is_fixed(old))
        if interior:
            text = "it is padded between its positions"
            units.fix_all(old, text)
            result = fixed(units, (shape_of(eqn.outvars[0])[axis],), text)
            nodes.append(result.nodes[0])
            zeros.append(result.zeros[0])
            continue
        stays = slice(max(-low, 0), len(old) - max(-high, 0))
        # Not `fresh`: what is added beside other positions can vanish even if it is one only.
        below, above = units.new(max(low, 0)), units.new(max(high, 0))
        nodes.append(np.concatenate([below, old[stays], above]))
        added = [np.full(len(end), padded_with_zero) for end in (below, above)]
        zeros.append(np.concatenate([added[0], old_zeros[stays], added[1]]))
    source = None if filling.source is None else value.source
    return [Tracked(tuple(nodes), tuple(zeros), None, source)]


def _pad_params(kept: Kept, step: Step) -> dict[str, Any]:
    config = []
    for axis, (low, high, interior) in enumerate(step.eqn.params["padding_config"]):
        old, new = step.operands[0].nodes[axis], step.results[0].nodes[axis]
        if not interior:
            # What is added is counted in the result, what is cut off in the operand.
            low = kept.count(new[:low]) if low > 0 else -kept.count(old[:-low])
            high = kept.count(new[len(new) - high :]) if high > 0 else -kept.count(
                old[len(old) + high :]
            )  # fmt: skip
        config.append((low, high, interior))
    return {"padding_config": tuple(config)}


def _iota(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    del operands
    axes = [fresh(units, n, zero=False) for n in shape_of(eqn.outvars[0])]
    nodes, zeros = tuple(n for n, _ in axes), tuple(z for _, z in axes)
    return [Tracked(nodes, zeros, None, (NONE,) * len(nodes))]


def _random_bits(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    for nodes in operands[0].nodes:
        units.fix_all(nodes, "it is an axis of random keys")
    # Random numbers are no data: weights with noise are weights.
    return _iota(units, eqn, ())


RULES = {
    "broadcast_in_dim": Rule(_broadcast, at=_broadcast_at),
    "reshape": Rule(_reshape, at=_reshape_at),
    "squeeze": Rule(_squeeze, at=_squeeze_at),
    "transpose": Rule(_transpose, at=_transpose_at),
    "slice": Rule(_slice, at=_slice_at),
    "rev": Rule(_rev),
    "tile": Rule(_tile),
    "pad": Rule(_pad, with_params(_pad_params)),
    "iota": Rule(_iota, whole_then_taken),
    "random_bits": Rule(_random_bits, whole_then_taken),
}
