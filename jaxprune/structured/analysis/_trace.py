"""A jaxpr, followed: what is known of every value in it, calls and loop bodies included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxprune._jaxpr import aval, opened, walk
from jaxprune.structured.analysis._roles import Roles
from jaxprune.structured.analysis._rule import Kept, Rule, Step, as_it_is, shape_of
from jaxprune.structured.analysis._tracked import NONE, Tracked, constant, fixed
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
      roles: which axes of parameters products sum over, as far as found.
      remembered: derivatives of custom rules, which are traced once.
      differentiating: whether a derivative is being followed.
    """

    units: Units
    control: Mapping[str, Callable[[Walk, JaxprEqn, Sequence[Tracked]], Step]]
    roles: Roles = field(default_factory=Roles)
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
            if not self.differentiating:
                self.roles.note(eqn, operands)
            return Step(eqn, operands, results, RULES[name].evaluate)
        # All positions are fixed, so that it can be evaluated as it is.
        return Step(eqn, operands, self._stop(eqn, operands), as_it_is)

    def _stop(self, eqn: JaxprEqn, operands: Sequence[Tracked]) -> list[Tracked]:
        text = "it is not followed through"
        for value in operands:
            for nodes in value.nodes:
                self.units.use(nodes)
                self.units.fix_all(nodes, text)
        results = [fixed(self.units, shape_of(var), text) for var in eqn.outvars]
        if any(value.source is None for value in operands):
            return results
        return [value._replace(source=(NONE,) * len(value.nodes)) for value in results]


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
