"""A jaxpr, followed: what is known of every value in it, calls and loop bodies included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxprune._jaxpr import aval, opened, walk
from jaxprune.structured.analysis._rule import Kept, Rule, Step, as_it_is, shape_of
from jaxprune.structured.analysis._tracked import Source, Tracked, constant, fixed
from jaxprune.structured.analysis._units import Units
from jaxprune.structured.analysis.rules import (
    _elementwise,
    _layout,
    _lookups,
    _products,
    _reductions,
    _writes,
)

RULES: dict[str, Rule] = {
    **_elementwise.RULES,
    **_layout.RULES,
    **_lookups.RULES,
    **_products.RULES,
    **_reductions.RULES,
    **_writes.RULES,
}


@dataclass(frozen=True)
class Trace:
    """A jaxpr whose equations have all been followed.

    Attributes:
      jaxpr: without its constants.
      consts: the captured constants.
      captured: what is known of them.
      steps: one for each equation.
      results: what is known of the results.
    """

    jaxpr: Any
    consts: Sequence[Any]
    captured: Sequence[Tracked]
    steps: Sequence[Step]
    results: Sequence[Tracked]


@dataclass
class Walk:
    """Follows jaxprs.

    Attributes:
      units: the positions that vanish together, as far as found.
      control: what to do at primitives that hold functions.
      roles: for (leaf, axis) whether products sum over it ("in") or not ("out").
      remembered: derivatives of custom rules, which are traced once.
      differentiating: whether a derivative is being followed.
    """

    units: Units
    control: Mapping[str, Callable[[Walk, JaxprEqn, Sequence[Tracked]], Step]]
    roles: dict[tuple[int, int], str] = field(default_factory=dict)
    remembered: dict[Any, Any] = field(default_factory=dict)
    differentiating: bool = False

    def run(self, jaxpr: Any, operands: Sequence[Tracked]) -> Trace:
        """Follows a jaxpr, closed or open, from its operands to its results."""
        inner, consts = opened(jaxpr)
        captured = [constant(self.units, x) for x in consts]
        steps: list[Step] = []

        def apply(i: int, eqn: JaxprEqn, known: list[Tracked]) -> Sequence[Tracked]:
            del i
            steps.append(self._step(eqn, known))
            return steps[-1].results

        results = walk(jaxpr, operands, apply, lambda x, aval: constant(self.units, x), captured)
        return Trace(inner, consts, captured, steps, results)

    def _step(self, eqn: JaxprEqn, operands: Sequence[Tracked]) -> Step:
        name = eqn.primitive.name
        self.units.now(eqn)
        if name in self.control:
            return self.control[name](self, eqn, operands)
        if name in RULES:
            results = RULES[name].follow(self.units, eqn, operands)
            self._note_roles(eqn, operands)
            return Step(eqn, operands, results, RULES[name].evaluate)
        # All positions are fixed, so that it can be evaluated as it is.
        return Step(eqn, operands, self._stop(eqn, operands), as_it_is)

    def _stop(self, eqn: JaxprEqn, operands: Sequence[Tracked]) -> list[Tracked]:
        text = "it is not followed through"
        for value in operands:
            for nodes in value.nodes:
                self.units.use(nodes)
                self.units.fix_all(nodes, text)
        return [fixed(self.units, shape_of(var), text) for var in eqn.outvars]

    def _note_roles(self, eqn: JaxprEqn, operands: Sequence[Tracked]) -> None:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            self._note_product(operands, params["dimension_numbers"][0])
        elif name == "ragged_dot_general":
            numbers = params["ragged_dot_dimension_numbers"]
            self._note_product(operands[:2], numbers.dot_dimension_numbers[0])
        elif name == "conv_general_dilated":
            summed = params["dimension_numbers"].rhs_spec[1]
            self._note(operands[1].source, lambda axis: axis == summed)
        elif name == "gather":
            self._note(operands[0].source, lambda axis: False)

    def _note_product(self, operands: Sequence[Tracked], contracted: Sequence[Any]) -> None:
        for value, taken in zip(operands, contracted, strict=True):
            self._note(value.source, lambda axis, taken=taken: axis in taken)

    def _note(self, source: Source, is_summed: Callable[[int], bool]) -> None:
        for axis, origins in enumerate(source or ()):
            for origin in origins:
                self.roles.setdefault(origin, "in" if is_summed(axis) else "out")


def evaluate(trace: Trace, kept: Kept, arrays: Sequence[Any]) -> list[Any]:
    """Computes what is kept of a followed jaxpr's results from what is kept of its operands."""
    consts = [kept.take(x, v) for x, v in zip(trace.consts, trace.captured, strict=True)]
    env: dict[Any, Any] = dict(zip(trace.jaxpr.constvars, consts, strict=True))
    env.update(zip(trace.jaxpr.invars, arrays, strict=True))

    def read(atom: Any, value: Tracked) -> Any:
        if isinstance(atom, Literal):
            return kept.take(np.asarray(atom.val, aval(atom).dtype), value)
        return env[atom]

    for step in trace.steps:
        operands = [read(v, x) for v, x in zip(step.eqn.invars, step.operands, strict=True)]
        results = step.evaluate(kept, step, operands)
        env.update(zip(step.eqn.outvars, results, strict=True))
    return [read(v, x) for v, x in zip(trace.jaxpr.outvars, trace.results, strict=True)]
