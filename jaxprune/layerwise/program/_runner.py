"""Evaluating a program a piece at a time, with the weights as they are by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._jaxpr import bind, functions_in, opened
from jaxprune.layerwise.program._flatten import Program, Step


class Piece(NamedTuple):
    """Some steps, ready to be run: a function of numbered arrays.

    Attributes:
      run: takes the arrays of ``arguments`` and returns those of the values that were asked for.
      arguments: the values that go in.
      wanted: the values that come out.
    """

    run: Callable[..., Any]
    arguments: tuple[int, ...]
    wanted: tuple[int, ...]


class Runner:
    """Runs a program on several batches.

    What depends on weights alone is computed anew in each piece that uses it, so that pieces see
    the weights as they are by then. Pieces that are alike up to the numbers of their values, as the
    layers of a network are, share one compiled program.

    Attributes:
      leaves: the parameters now.
      compiled: how many different pieces there were.
    """

    def __init__(self, program: Program, leaves: Sequence[Any], batches: Sequence[Any]):
        """Stands at the beginning.

        Args:
          program: from `flatten`.
          leaves: the leaves of the parameters.
          batches: of one structure, and of the shapes of the program.
        """
        self.leaves = list(leaves)
        self._program, self._at = program, 0
        self._held = [
            dict(zip(program.inputs, jax.tree.leaves(batch), strict=True)) for batch in batches
        ]
        self._last = {v: at for at, step in enumerate(program.steps) for v in step.operands}
        self._last |= dict.fromkeys(program.results, len(program.steps))
        self._pieces: dict[Any, Callable[..., Any]] = {}

    @property
    def compiled(self) -> int:
        """How many different pieces there were."""
        return len(self._pieces)

    def advance(self, to: int) -> None:
        """Runs the steps before number ``to`` for all batches, with the weights as they are."""
        piece = self.ahead(to)
        self._at = to
        for k, held in enumerate(self._held):
            results = piece.run(*self.arguments(piece, k)) if piece.wanted else []
            for v in [v for v in held if self._last.get(v, -1) < to]:
                del held[v]
            held.update(zip(piece.wanted, results, strict=True))

    def ahead(self, to: int) -> Piece:
        """The steps before number ``to``, as a function: to what is needed from there on."""
        steps = self._steps(to)
        made = [v for step in steps for v in step.results]
        return self._piece(steps, tuple(v for v in made if self._last.get(v, -1) >= to), ())

    def look(
        self, to: int, values: Sequence[int], f: Callable[..., Any], key: Any, start: Any
    ) -> Any:
        """Computes something of values on the way to step ``to``, without going there.

        Args:
          to: a step after all that make the values.
          values: what is looked at.
          f: ``f(total, *arrays)``, compiled with what makes the values.
          key: what tells ``f`` from other functions.
          start: the first total.

        Returns:
          The total after all batches, in their order.
        """
        piece, total = self._piece(self._steps(to), tuple(values), key, f), start
        for k in range(len(self._held)):
            total = piece.run(total, *self.arguments(piece, k))
        return total

    def arguments(self, piece: Piece, batch: int) -> list[Any]:
        """What goes into a piece, of one of the batches and of the weights as they are."""
        held, program = self._held[batch], self._program
        number = {v: k for k, v in enumerate(program.leaves)}
        arrays = []
        for v in piece.arguments:
            if v in held:
                arrays.append(held[v])
            elif v in number:
                arrays.append(self.leaves[number[v]])
            else:
                arrays.append(program.constants[v])
        return arrays

    def _steps(self, to: int) -> list[Step]:
        """The steps from here to number ``to`` that depend on data."""
        program = self._program
        steps = program.steps[self._at : to]
        return [s for s in steps if any(program.has_data[v] for v in s.operands)]

    def _piece(
        self,
        steps: Sequence[Step],
        wanted: tuple[int, ...],
        key: Any,
        f: Callable[..., Any] | None = None,
    ) -> Piece:
        program = self._program
        steps = self._needed(steps, wanted)
        made = {v for step in steps for v in step.results}
        used = [v for step in steps for v in step.operands] + list(wanted)
        # Small constants are written into the program, others are arguments.
        inline = {
            v: np.asarray(program.constants[v])
            for v in used
            if v in program.constants
            and np.ndim(program.constants[v]) == 0
            and v not in program.places
        }
        arguments = tuple(dict.fromkeys(v for v in used if v not in made and v not in inline))
        number = {v: k for k, v in enumerate(dict.fromkeys([*arguments, *used, *sorted(made)]))}

        def name(v: int) -> Any:
            if v in inline:
                return str(inline[v].dtype), inline[v].tobytes()
            return number[v]

        shape = (
            tuple(
                (
                    step.kind,
                    _described(step.eqn),
                    tuple(map(name, step.operands)),
                    tuple(map(number.__getitem__, step.results)),
                )
                for step in steps
            ),
            tuple(map(name, wanted)),
            key,
        )
        if shape not in self._pieces:

            def run(*arrays: Any) -> Any:
                total, arrays = (arrays[0], arrays[1:]) if f is not None else (None, arrays)
                known = dict(zip(arguments, arrays, strict=True)) | inline
                for step in steps:
                    known.update(zip(step.results, _results(step, known), strict=True))
                found = [known[v] for v in wanted]
                return found if f is None else f(total, *found)

            self._pieces[shape] = jax.jit(run)
        return Piece(self._pieces[shape], arguments, wanted)

    def _needed(self, steps: Sequence[Step], wanted: Sequence[int]) -> list[Step]:
        """Those of the steps that the wanted values need, with what is made of weights alone."""
        program = self._program
        own = {v: step for step in steps for v in step.results}
        needed: dict[int, Step] = {}
        open_ = list(wanted)
        while open_:
            v = open_.pop()
            step = own.get(v)
            if step is None and not program.has_data[v] and v in program.maker:
                step = program.steps[program.maker[v]]
            if step is not None and id(step) not in needed:
                needed[id(step)] = step
                open_ += step.operands
        return sorted(needed.values(), key=lambda step: program.maker[step.results[0]])


def _results(step: Step, known: dict[int, Any]) -> list[Any]:
    operands = [known[v] for v in step.operands]
    if step.kind == "take":
        return [jax.lax.dynamic_index_in_dim(operands[0], operands[1], keepdims=False)]
    if step.kind == "stack":
        return [jnp.stack(operands)]
    assert step.eqn is not None
    return bind(step.eqn, operands)


def _described(eqn: Any) -> Any:
    """What tells an equation from others, its operands aside."""
    if eqn is None:
        return None
    consts: list[int] = []
    _captured(eqn.params, consts)
    return eqn.primitive.name, str(eqn.params), tuple(consts)


def _captured(params: Any, found: list[int]) -> None:
    """The identities of the arrays that functions inside of parameters have captured."""
    for function in functions_in(params):
        inner, consts = opened(function)
        found.extend(map(id, consts))
        for eqn in inner.eqns:
            _captured(eqn.params, found)
