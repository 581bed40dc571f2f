"""Following axes through operations that treat every entry for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune._jaxpr import aval, bind
from jaxprune.structured.analysis._alike import (
    Held,
    Labels,
    codes,
    operand_at,
    patterns,
    position_of,
)
from jaxprune.structured.analysis._rule import Kept, Rule, Step, shape_of
from jaxprune.structured.analysis._tracked import Source, Tracked, fixed, together
from jaxprune.structured.analysis._units import Units

NAMES = frozenset(
    {
        "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
        "bessel_i0e", "bessel_i1e", "bitcast_convert_type", "cbrt", "ceil", "clamp", "clz",
        "complex", "conj", "convert_element_type", "copy", "copy_p", "cos", "cosh", "device_put",
        "digamma", "div", "eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor",
        "ge", "gt", "igamma", "igamma_grad_a", "igammac", "imag", "integer_pow", "is_finite", "le",
        "le_to", "lgamma", "log", "log1p", "log2", "logistic", "lt", "lt_to", "max", "min", "mul",
        "mulhi", "name", "ne", "neg", "nextafter", "not", "one_minus_square",
        "optimization_barrier", "or", "polygamma", "polynomial", "population_count", "pow",
        "random_gamma_grad", "real", "reduce_precision", "regularized_incomplete_beta", "rem",
        "round", "rsqrt", "select_n", "sharding_constraint", "shift_left", "shift_right_arithmetic",
        "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub",
        "tan", "tanh", "xor", "zeta",
    }
)  # fmt: skip


def _follow(units: Units, eqn: JaxprEqn, operands: Sequence[Tracked]) -> list[Tracked]:
    """Positions of all operands vanish together; a result is zero where the operation says so."""
    if eqn.primitive.name in ("optimization_barrier", "device_put"):
        return [value._replace(alike=None) for value in operands]
    shape = shape_of(eqn.outvars[0])
    if len(eqn.outvars) > 1 or any(len(x.nodes) not in (0, len(shape)) for x in operands):
        text = "it is not followed through"
        for value in operands:  # bits of another width, or what a later JAX makes of a name
            for nodes in value.nodes:
                units.use(nodes)
                units.fix_all(nodes, text)
        return [fixed(units, shape_of(var), text) for var in eqn.outvars]
    ranked = [value for value in operands if value.nodes]
    nodes = []
    for axis, n in enumerate(shape):
        across = [value.nodes[axis] for value in ranked if len(value.nodes[axis]) == n]
        nodes.append(across[0])
        for other in across[1:]:
            units.join_all(across[0], other)
        for value in ranked:
            if len(value.nodes[axis]) != n:
                units.fix_all(value.nodes[axis], "it is repeated")
    numbers = [value.number for value in operands]
    number = None if any(n is None for n in numbers) else _on_numbers(eqn, numbers)
    zeros = []
    for axis, n in enumerate(shape):
        axis_zeros, infinite = _at_zero(eqn, operands, axis, n)
        zeros.append(axis_zeros)
        if infinite.any():
            at_zero = operands[1:2] if eqn.primitive.name in ("div", "rem") else operands
            for value in at_zero:
                if value.source:
                    units.singular.update(value.source[axis])
            units.fix_all(nodes[axis][infinite], "it is not finite where it is masked")
    alike = None
    if eqn.primitive.name != "sharding_constraint":  # whose axes have the sizes of the whole
        columns = [[codes(value, axis, n) for value in operands] for axis, n in enumerate(shape)]
        alike = tuple(map(patterns, columns))
    return [Tracked(tuple(nodes), tuple(zeros), number, _source(operands, len(shape)), alike)]


def _at(kept: Kept, step: Step, operands: Sequence[Held], labels: Labels) -> Any:
    result = step.results[0]
    places = {axis: position_of(result, axis, label) for axis, label in labels.items()}
    arrays = []
    for value, held in zip(step.operands, operands, strict=True):
        found = {
            axis: int(codes(value, axis, len(result.nodes[axis]))[place])
            for axis, place in places.items()
        }
        arrays.append(operand_at(value, held, found))
    return bind(step.eqn, arrays)[0]


def _source(operands: Sequence[Tracked], rank: int) -> Source:
    """A number from the data, as a temperature, does not make data of a kernel."""
    return together([value for value in operands if len(value.nodes) == rank])


def _at_zero(
    eqn: JaxprEqn, operands: Sequence[Tracked], axis: int, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the result is zero, and where infinite or no number, once operands are zero."""
    name, never = eqn.primitive.name, np.zeros(n, bool)

    def of(value: Tracked) -> np.ndarray:
        if not value.nodes or len(value.nodes[axis]) != n:  # a scalar, or repeated
            return np.full(n, value.number is not None and not np.any(value.number))
        return value.zeros[axis]

    flags = [of(value) for value in operands]
    if name in ("mul", "and"):
        return np.logical_or.reduce(flags), never
    if name in ("div", "rem"):
        return flags[0] & ~flags[1], flags[1]
    if name == "select_n":
        which = operands[0].number
        if which is not None:
            return flags[1 + int(which)], never
        return np.logical_and.reduce(flags[1:]), never
    at = _on_numbers(eqn, [0 if value.number is None else value.number for value in operands])
    if at is None or (np.any(at) and np.all(np.isfinite(at))):
        return never, never
    unknown = [flag for flag, value in zip(flags, operands, strict=True) if value.number is None]
    if np.any(at):
        return never, np.logical_and.reduce(unknown) if unknown else never
    return np.logical_and.reduce([np.ones(n, bool), *unknown]), never


_known: dict[Any, Any] = {}


def _on_numbers(eqn: JaxprEqn, numbers: Sequence[Any]) -> Any:
    """The operation on scalars; `None` where that is no number."""
    dtypes = [aval(var).dtype for var in eqn.invars]
    if not all(jnp.issubdtype(dtype, np.generic) for dtype in dtypes):
        return None
    arrays = [np.asarray(x).astype(dtype) for x, dtype in zip(numbers, dtypes, strict=True)]
    key = (eqn.primitive.name, str(eqn.params), tuple((x.item(), str(x.dtype)) for x in arrays))
    if key not in _known:
        try:
            with jax.ensure_compile_time_eval():
                (result,) = bind(eqn, arrays)
            _known[key] = np.asarray(result) if np.shape(result) == () else None
        except (TypeError, ValueError, NotImplementedError):
            _known[key] = None
        if len(_known) > 4096:
            return _known.pop(key)
    return _known[key]


RULES = {name: Rule(_follow, at=_at) for name in NAMES}
