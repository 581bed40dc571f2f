"""A rule: how the axes of one primitive's operands and results hang together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune._jaxpr import bind
from jaxprune.structured.analysis._alike import Held, Labels
from jaxprune.structured.analysis._tracked import Tracked
from jaxprune.structured.analysis._units import Units


class Kept:
    """Which positions of every axis stay."""

    def __init__(self, gone: np.ndarray) -> None:
        self._gone = gone  # bool [nodes]

    def positions(self, nodes: np.ndarray) -> np.ndarray:
        """Which of an axis' positions stay, bool ``[size]``."""
        return ~self._gone[nodes]

    def count(self, nodes: np.ndarray) -> int:
        """How many of an axis' positions stay."""
        return int(self.positions(nodes).sum())

    def shape(self, value: Tracked) -> tuple[int, ...]:
        """The sizes of what stays of a value."""
        return tuple(self.count(nodes) for nodes in value.nodes)

    def take(self, array: Any, value: Tracked) -> Any:
        """What stays of an array of the value's full shape."""
        for axis, nodes in enumerate(value.nodes):
            stays = self.positions(nodes)
            if not stays.all():
                array = array.take(np.flatnonzero(stays), axis=axis)
        return array


@dataclass(frozen=True)
class Step:
    """One equation, followed.

    Attributes:
      eqn: the equation.
      operands: what is known of its operands.
      results: what is known of its results.
      evaluate: ``evaluate(kept, step, arrays)`` computes what is kept of the results from what is
        kept of the operands.
      inner: the functions that the equation holds, followed.
      at: see `Rule`.
      inlined: whether the results are those of the function that the equation holds.
    """

    eqn: JaxprEqn
    operands: Sequence[Tracked]
    results: Sequence[Tracked]
    evaluate: Evaluate
    inner: tuple[Any, ...] = ()
    at: At | None = None
    inlined: bool = False


# follow(units, eqn, operands) joins what must vanish together and returns the results.
Follow: TypeAlias = Callable[[Units, JaxprEqn, Sequence[Tracked]], list[Tracked]]
Evaluate: TypeAlias = Callable[[Kept, Step, Sequence[Any]], list[Any]]
At: TypeAlias = Callable[[Kept, Step, Sequence[Held], Labels], Any]


def as_it_is(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    """The same equation on smaller arrays."""
    del kept
    return bind(step.eqn, arrays)


def with_params(params: Callable[[Kept, Step], dict[str, Any]]) -> Evaluate:
    """The same primitive on smaller arrays, with other parameters."""

    def evaluate(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
        changed = {**step.eqn.params, **params(kept, step)}
        return bind(step.eqn.replace(params=changed), arrays)

    return evaluate


def whole_then_taken(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    """The full results, of which what stays is taken: for numbers that come from nowhere."""
    results = zip(bind(step.eqn, arrays), step.results, strict=True)
    return [kept.take(x, value) for x, value in results]


class Rule(NamedTuple):
    """How one primitive is followed, and then evaluated with what is kept.

    Attributes:
      follow: ``follow(units, eqn, operands)`` joins the nodes of positions that must vanish
        together, fixes those that cannot, and returns what is known of the results.
      evaluate: see `Step`.
      at: ``at(kept, step, operands, labels)`` computes the slice of the only result that masked
        positions with these labels hold, and with no labels what is kept of it, in place of
        ``evaluate``. Results of rules without it have no labels.
    """

    follow: Follow
    evaluate: Evaluate = as_it_is
    at: At | None = None


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of an equation's operand or result."""
    return tuple(atom.aval.shape)
