"""A jaxpr, followed: what is known of every value in it, calls and loop bodies included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxprune._jaxpr import aval, opened, walk
from jaxprune.structured.analysis._alike import Held, held_constant
from jaxprune.structured.analysis._roles import Roles
from jaxprune.structured.analysis._rule import Kept, Rule, Step, as_it_is, shape_of
from jaxprune.structured.analysis._tracked import NONE, Tracked, constant, fixed
from jaxprune.structured.analysis._units import Units
from jaxprune.structured.analysis.rules import (
    _elementwise,
    _layout,
    _lookups,
    _pieces,
    _products,
    _reductions,
    _writes,
)

RULES: dict[str, Rule] = {
    **_elementwise.RULES,
    **_layout.RULES,
    **_lookups.RULES,
    **_pieces.RULES,
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

    def run(self, jaxpr: Any, operands: Sequence[Tracked], *, inlined: bool = False) -> Trace:
        """Follows a jaxpr, closed or open, from its operands to its results.

        Args:
          jaxpr: the jaxpr.
          operands: what is known of them.
          inlined: whether it will be evaluated as a part of what holds it. Only then do labels
            (see `_alike`) get in and out.
        """
        if not inlined:
            operands = _without_labels(operands)
        inner, consts = opened(jaxpr)
        captured = [constant(self.units, x) for x in consts]
        steps: list[Step] = []

        def apply(i: int, eqn: JaxprEqn, known: list[Tracked]) -> Sequence[Tracked]:
            del i
            steps.append(self._step(eqn, known))
            return steps[-1].results

        results = walk(jaxpr, operands, apply, lambda x, aval: constant(self.units, x), captured)
        known = results if inlined else _without_labels(results)
        return Trace(inner, consts, captured, steps, known)

    def _step(self, eqn: JaxprEqn, operands: Sequence[Tracked]) -> Step:
        name = eqn.primitive.name
        self.units.now(eqn)
        if name in self.control:
            step = self.control[name](self, eqn, operands)
            return step if step.inlined else replace(step, results=_without_labels(step.results))
        if name in RULES:
            rule = RULES[name]
            results = rule.follow(self.units, eqn, operands)
            if not self.differentiating:
                self.roles.note(eqn, operands)
            at = rule.at if len(results) == 1 else None
            if at is None:
                results = _without_labels(results)
            return Step(eqn, operands, results, rule.evaluate, at=at)
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


def _without_labels(values: Sequence[Tracked]) -> list[Tracked]:
    return [value._replace(alike=None) for value in values]


def evaluate(trace: Trace, kept: Kept, arrays: Sequence[Any]) -> list[Any]:
    """Computes what is kept of a followed jaxpr's results from what is kept of its operands."""
    held = [Held(None, x) for x in arrays]
    return [result.array for result in evaluate_inlined(trace, kept, held)]


def evaluate_inlined(trace: Trace, kept: Kept, operands: Sequence[Held]) -> list[Held]:
    """The same, with what masked positions hold, of a jaxpr that was followed as inlined."""
    pairs = zip(trace.jaxpr.constvars, trace.consts, trace.captured, strict=True)
    env: dict[Any, Held] = {var: held_constant(kept.take(x, v)) for var, x, v in pairs}
    env.update(zip(trace.jaxpr.invars, operands, strict=True))

    def read(atom: Any, value: Tracked) -> Held:
        if isinstance(atom, Literal):
            return held_constant(kept.take(np.asarray(atom.val, aval(atom).dtype), value))
        return env[atom]

    for step in trace.steps:
        ours = [read(v, x) for v, x in zip(step.eqn.invars, step.operands, strict=True)]
        env.update(zip(step.eqn.outvars, _results(step, kept, ours), strict=True))
    return [read(v, x) for v, x in zip(trace.jaxpr.outvars, trace.results, strict=True)]


def _results(step: Step, kept: Kept, operands: Sequence[Held]) -> list[Held]:
    if step.inlined:
        return evaluate_inlined(step.inner[0], kept, operands)
    if step.at is not None:
        return [Held(partial(step.at, kept, step, operands))]
    results = step.evaluate(kept, step, [held.array for held in operands])
    return [Held(None, x) for x in results]
