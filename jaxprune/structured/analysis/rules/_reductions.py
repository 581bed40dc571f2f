"""Following axes through operations that put the entries of an axis together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune._jaxpr import bind
from jaxprune.structured.analysis._alike import UNKNOWN, ZERO, Held, Labels, codes, counts
from jaxprune.structured.analysis._rule import Kept, Rule, Step, shape_of
from jaxprune.structured.analysis._tracked import Tracked, fixed, together
from jaxprune.structured.analysis._units import Units

Operands = Sequence[Tracked]

# How the slices that masked positions hold are put to what is kept: (total, slice, how many).
_COMBINED: dict[str, Callable[[Any, Any, int], Any]] = {
    "reduce_sum": lambda total, x, n: total + x * number(n, x),
    "reduce_prod": lambda total, x, n: total * jax.lax.integer_pow(x, n),
    "reduce_max": lambda total, x, n: jax.lax.max(total, x),
    "reduce_min": lambda total, x, n: jax.lax.min(total, x),
    "reduce_or": lambda total, x, n: jax.lax.bitwise_or(total, x),
    "reduce_and": lambda total, x, n: jax.lax.bitwise_and(total, x),
    "reduce_xor": lambda total, x, n: jax.lax.bitwise_xor(total, x) if n % 2 else total,
}
# A slice that is zero (or False) adds nothing to these.
_SUMS = frozenset({"reduce_sum", "reduce_or", "reduce_xor"})


def number(n: int, like: Any) -> np.ndarray:
    """A count in the type of an array, in which it overflows as a sum of so many would."""
    return np.asarray(n).astype(like.dtype)


def contract(units: Units, nodes: np.ndarray, zero: np.ndarray, text: str) -> None:
    """An axis is summed over: exact where what vanishes is zero already."""
    units.use(nodes)
    stays = ~(zero | units.is_fixed(nodes))
    if stays.any():
        units.fix_all(nodes[stays], text)


def _reduce(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    name = eqn.primitive.name
    axes = {a % len(operands[0].nodes) for a in eqn.params["axes"]}
    for value in operands:
        for axis in axes:
            nodes = value.nodes[axis]
            if name in _COMBINED:
                what = "summed" if name in _SUMS else "reduced"
                text = f"it is {what} over, and what is {what} is not zero where it is masked"
                contract(units, nodes, codes(value, axis, len(nodes)) != UNKNOWN, text)
            else:
                units.use(nodes)
                units.fix_all(nodes, "it is reduced over")
    rest = [a for a in range(len(operands[0].nodes)) if a not in axes]
    return [value.with_axes(rest) for value in operands[: len(eqn.outvars)]]


def _reduce_at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    name, value, held = step.eqn.primitive.name, step.operands[0], operands[0]
    rank = len(value.nodes)
    axes = {a % rank for a in step.eqn.params["axes"]}
    rest = [a for a in range(rank) if a not in axes]
    missing = {
        axis: counts(codes(value, axis, len(value.nodes[axis])), ~kept.positions(value.nodes[axis]))
        for axis in axes
    }

    def total(ours: dict[int, int], open_: Sequence[int]) -> Any:
        if not open_:
            return bind(step.eqn, [held.at(ours)])[0]
        axis, *others = open_
        result = total(ours, others)
        for code, n in missing[axis].items():
            if code == ZERO and name in _SUMS:
                continue
            there = jnp.zeros_like(result) if code == ZERO else total({**ours, axis: code}, others)
            result = _COMBINED[name](result, there, n)
        return result

    open_ = [axis for axis in sorted(axes) if missing[axis]]
    return total({rest[axis]: label for axis, label in labels.items()}, open_)


def _mapped(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    """Sums and maxima over a mapped axis, which `vmap` has made an axis of each operand."""
    axes = eqn.params["axes"]
    placed = all(isinstance(axis, int) for axis in axes)
    if not placed or eqn.params["axis_index_groups"] is not None:
        text = "it is not followed through"
        for nodes in (nodes for value in operands for nodes in value.nodes):
            units.use(nodes)
            units.fix_all(nodes, text)
        return [fixed(units, shape_of(var), text) for var in eqn.outvars]
    for value in operands:
        for axis in axes:
            zeros = value.zeros[axis] & (eqn.primitive.name == "psum")
            contract(units, value.nodes[axis], zeros, "it is reduced over")
    rest = [axis for axis in range(len(operands[0].nodes)) if axis not in axes]
    return [value.with_axes(rest) for value in operands]


def _along(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    """Sorts and running sums: the axis keeps its length, and positions depend on each other."""
    name = eqn.primitive.name
    rank = len(operands[0].nodes)
    axis = eqn.params["dimension" if name == "sort" else "axis"] % rank
    results = []
    for value in operands:
        units.use(value.nodes[axis])
        units.fix_all(value.nodes[axis], "positions along it depend on each other")
        for a in range(rank):
            units.join_all(operands[0].nodes[a], value.nodes[a])
        zeros = value.zeros
        if name == "cumlogsumexp":
            zeros = tuple(np.zeros_like(z) for z in zeros)
        results.append(Tracked(operands[0].nodes, zeros, None, together(operands)))
    return results


def _fft(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    """Linear, along the last axes."""
    value, shape = operands[0], shape_of(eqn.outvars[0])
    nodes, zeros = list(value.nodes), list(value.zeros)
    for axis in range(len(shape) - len(eqn.params["fft_lengths"]), len(shape)):
        units.use(nodes[axis])
        text = "it is transformed"
        units.fix_all(nodes[axis], text)
        ((nodes[axis],), (zeros[axis],)) = fixed(units, shape[axis : axis + 1], text)[:2]
    return [Tracked(tuple(nodes), tuple(zeros), None, value.source)]


def _top_k(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    """The largest entries along an axis, approximate ones too; other axes are followed."""
    value, params = operands[0], eqn.params
    axis = params.get("reduction_dimension", params.get("axis", -1)) % len(value.nodes)
    units.use(value.nodes[axis])
    text = "positions along it depend on each other"
    units.fix_all(value.nodes[axis], text)
    n = shape_of(eqn.outvars[0])[axis]
    nodes, zeros = list(value.nodes), list(value.zeros)
    nodes[axis], zeros[axis] = units.new_fixed(n, text), np.ones(n, bool)
    if not params.get("aggregate_to_topk", True):  # bins without an entry hold -inf
        zeros = [np.zeros_like(z) for z in zeros]
    # The indices of equal entries are 0, 1, ...: not zero.
    flags = tuple(np.zeros_like(z) for z in zeros)
    largest = Tracked(tuple(nodes), tuple(zeros), None, value.source)
    return [largest, largest._replace(zeros=flags)]


def _in_padding(params: dict[str, Any]) -> bool:
    """Whether a window may hold padding only, of which the largest entry is -inf."""
    if any(n != 1 for n in params["base_dilation"]):
        return True
    windows = zip(params["window_dimensions"], params["window_dilation"], strict=True)
    reach = [(size - 1) * step for size, step in windows]
    return any(max(pair) > n for pair, n in zip(params["padding"], reach, strict=True))


def _windows(units: Units, eqn: JaxprEqn, operands: Operands) -> list[Tracked]:
    value, params = operands[0], eqn.params
    shape = shape_of(eqn.outvars[0])
    nodes, zeros = list(value.nodes), list(value.zeros)
    for axis, n in enumerate(shape):
        names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
        settings = [params[name][axis] for name in names]
        if settings == [1, 1, 1, 1] and tuple(params["padding"][axis]) == (0, 0):
            continue
        units.use(nodes[axis])
        text = "windows run along it"
        units.fix_all(nodes[axis], text)
        ((nodes[axis],), (zeros[axis],)) = fixed(units, (n,), text)[:2]
    if eqn.primitive.name != "reduce_window_sum" and _in_padding(params):
        zeros = [zero & units.is_fixed(x) for zero, x in zip(zeros, nodes, strict=True)]
    return [Tracked(tuple(nodes), tuple(zeros), None, value.source)]


_RUNNING = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort")

RULES = {
    **{name: Rule(_reduce) for name in ("argmax", "argmin")},
    **{name: Rule(_reduce, at=_reduce_at) for name in _COMBINED},
    **{name: Rule(_along) for name in _RUNNING},
    **{f"reduce_window_{kind}": Rule(_windows) for kind in ("sum", "max", "min")},
    "fft": Rule(_fft),
    **{name: Rule(_top_k) for name in ("top_k", "approx_top_k")},
    **{name: Rule(_mapped) for name in ("psum", "pmax", "pmin")},
}
