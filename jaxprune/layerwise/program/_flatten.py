"""Writing a function out as a list of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune import _jaxpr
from jaxprune._tree import PyTree


class Step(NamedTuple):
    """One operation. Values are numbered.

    Attributes:
      kind: "eqn", "take" (entry k of an array, k being the second operand) or "stack" (of the
        operands, along a new first axis).
      eqn: the equation; `None` of the other kinds.
      operands: what goes in.
      results: what comes out.
    """

    kind: str
    eqn: JaxprEqn | None
    operands: tuple[int, ...]
    results: tuple[int, ...]


@dataclass
class Program:
    """A function written out.

    Attributes:
      steps: in an order in which they can be run.
      leaves: the values of the parameters, in the order of their leaves.
      inputs: the values of the batch's leaves.
      constants: the values that are known, with what they are.
      places: of those among them that count the rounds of a loop; they differ between pieces that
        are alike otherwise.
      shapes: shape and dtype of each value.
      has_data: for each value whether it depends on the batch.
      roots: for each value the numbers of the watched leaves that it depends on.
      maker: which step makes a value.
      results: the values that the function returns.
    """

    steps: list[Step] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    places: set[int] = field(default_factory=set)
    shapes: list[Any] = field(default_factory=list)
    has_data: list[bool] = field(default_factory=list)
    roots: list[frozenset[int]] = field(default_factory=list)
    maker: dict[int, int] = field(default_factory=dict)
    results: list[int] = field(default_factory=list)

    def value(self, aval: Any, *, data: bool = False, roots: frozenset[int] = frozenset()) -> int:
        """A new value."""
        self.shapes.append(jax.ShapeDtypeStruct(aval.shape, aval.dtype))
        self.has_data.append(data)
        self.roots.append(roots)
        return len(self.shapes) - 1

    def constant(self, x: Any, aval: Any) -> int:
        """A value that is known."""
        number = self.value(aval)
        self.constants[number] = x
        return number

    def step(
        self, kind: str, eqn: JaxprEqn | None, operands: Sequence[int], avals: Sequence[Any]
    ) -> list[int]:
        """A new step; its results."""
        data = any(self.has_data[v] for v in operands)
        roots = frozenset().union(*(self.roots[v] for v in operands))
        results = [self.value(aval, data=data, roots=roots) for aval in avals]
        self.maker.update(dict.fromkeys(results, len(self.steps)))
        self.steps.append(Step(kind, eqn, tuple(operands), tuple(results)))
        return results


def flatten(f: Callable[..., Any], params: PyTree, batch: Any, watched: Sequence[bool]) -> Program:
    """Writes ``f(params, batch)`` out.

    Calls are opened. A scan is written out, round by round, where a watched leaf goes into it, so
    that each layer of a scanned stack has steps of its own. Other loops and branches are one step.

    Args:
      f: a function of JAX operations.
      params: any pytree of arrays.
      batch: an example batch, a pytree of arrays.
      watched: for each leaf of the parameters whether its uses matter.

    Returns:
      The program.
    """
    jaxpr = jax.make_jaxpr(f)(params, batch)
    program = Program()
    for k, x in enumerate(jax.tree.leaves(params)):
        roots = frozenset({k} if watched[k] else ())
        program.leaves.append(program.value(_like(x), roots=roots))
    for x in jax.tree.leaves(batch):
        program.inputs.append(program.value(_like(x), data=True))
    program.results = _run(program, jaxpr, [*program.leaves, *program.inputs])
    return program


def _run(program: Program, jaxpr: Any, operands: Sequence[int]) -> list[int]:
    def apply(i: int, eqn: JaxprEqn, known: list[int]) -> list[int]:
        del i
        name = eqn.primitive.name
        if name in _jaxpr.CALLS:
            return _run(program, _jaxpr.held(eqn), known)
        if name == "scan" and any(program.roots[v] for v in known):
            return _rounds(program, eqn, known)
        return program.step("eqn", eqn, known, [_jaxpr.aval(v) for v in eqn.outvars])

    return _jaxpr.walk(jaxpr, operands, apply, program.constant)


def _rounds(program: Program, eqn: JaxprEqn, known: list[int]) -> list[int]:
    """A scan, round by round."""
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    n_consts, n_carry = _jaxpr.scan_counts(eqn.params)
    consts, carry = known[:n_consts], known[n_consts : n_consts + n_carry]
    stacked = known[n_consts + n_carry :]
    outs: list[list[int]] = [[] for _ in eqn.outvars[n_carry:]]
    order = range(length)
    for k in reversed(order) if eqn.params["reverse"] else order:
        place = program.constant(np.int32(k), jax.ShapeDtypeStruct((), np.int32))
        program.places.add(place)
        own = []
        for v in stacked:
            shape = program.shapes[v]
            one = jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)
            own += program.step("take", None, [v, place], [one])
        results = _run(program, body, [*consts, *carry, *own])
        carry = results[:n_carry]
        for out, value in zip(outs, results[n_carry:], strict=True):
            out.append(value)
    if eqn.params["reverse"]:
        outs = [out[::-1] for out in outs]
    ys = []
    for out, var in zip(outs, eqn.outvars[n_carry:], strict=True):
        ys += program.step("stack", None, out, [_jaxpr.aval(var)])
    return [*carry, *ys]


def _like(x: Any) -> Any:
    return x if hasattr(x, "dtype") and hasattr(x, "shape") else np.asarray(x)
