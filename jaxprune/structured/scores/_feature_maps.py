"""Feature maps: what convolutions and pooling over the image read, channel by channel."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxprune import _tree
from jaxprune._jaxpr import CALLS, bind
from jaxprune.structured.analysis._graph import Graph
from jaxprune.structured.analysis._rule import Step
from jaxprune.structured.analysis._trace import Trace


class Reading(NamedTuple):
    """An operand whose maps something reads.

    Attributes:
      axes: of its channels, images, heights and widths.
      channels: which channels belong to a unit.
      units: for each group of which there are some: for each of its units there the index in
        ``channels``, and the unit; ``[2, units]``.
    """

    axes: tuple[int, int, int, int]
    channels: np.ndarray
    units: dict[int, np.ndarray]


def readings(graph: Graph, *, skip: Container[int] = ()) -> dict[int, Reading]:
    """Finds what reads feature maps, in the order in which it runs, by the id of its step.

    Calls are looked into. Loops and branches are not: their values cannot be taken out of them.

    Args:
      graph: a followed function.
      skip: the numbers of groups to leave out.
    """
    owners = {
        atom: (i, unit)
        for i, atoms in enumerate(graph.atoms)
        if i not in skip
        for unit, atom in enumerate(graph.units.roots(np.array(atoms)).tolist())
    }
    found = {}
    for step in _steps(graph.trace):
        axes = _axes(graph, step)
        if axes is None:
            continue
        parts = graph.units.parts(step.operands[0].nodes[axes[0]])
        held = [(k, owners[a]) for k, atoms in enumerate(parts) for a in atoms if a in owners]
        if held:
            channels = np.unique([k for k, _ in held])
            units: dict[int, list[tuple[int, int]]] = {}
            for k, (i, unit) in held:
                units.setdefault(i, []).append((int(np.searchsorted(channels, k)), unit))
            tables = {i: np.array(pairs).T for i, pairs in units.items()}
            found[id(step)] = Reading(axes, channels, tables)
    return found


def feature_maps(
    graph: Graph, found: Mapping[int, Reading], arrays: Sequence[Any]
) -> list[jax.Array]:
    """Runs a followed function, and returns the maps of each reading.

    Args:
      graph: the function.
      found: what `readings` found in it.
      arrays: the leaves of its parameters and inputs.

    Returns:
      For each reading ``[its channels, images, H, W]``, float32 at least.
    """
    maps: list[jax.Array] = []
    _run(graph.trace, arrays, found, maps)
    return maps


def _steps(trace: Trace) -> Iterator[Step]:
    for step in trace.steps:
        if step.eqn.primitive.name in CALLS:
            yield from _steps(step.inner[0])
        else:
            yield step


def _axes(graph: Graph, step: Step) -> tuple[int, int, int, int] | None:
    """The axes of a step's first operand, if that is images with channels."""
    name, params = step.eqn.primitive.name, step.eqn.params
    if name == "conv_general_dilated" and len(params["dimension_numbers"].lhs_spec) == 4:
        images, channels, height, width = params["dimension_numbers"].lhs_spec
        return channels, images, height, width
    if name in ("reduce_sum", "reduce_max") and len(step.operands[0].nodes) == 4:
        rest = [axis for axis in range(4) if axis not in params["axes"]]
        if len(rest) == 2:
            # Images cannot vanish, channels can.
            images, channels = sorted(
                rest, key=lambda axis: any(graph.units.parts(step.operands[0].nodes[axis]))
            )
            return channels, images, *params["axes"]
    return None


def _run(
    trace: Trace, arrays: Sequence[Any], found: Mapping[int, Reading], maps: list[jax.Array]
) -> list[Any]:
    env: dict[Any, Any] = dict(zip(trace.jaxpr.constvars, trace.consts, strict=True))
    env.update(zip(trace.jaxpr.invars, arrays, strict=True))

    def read(atom: Any) -> Any:
        if isinstance(atom, Literal):
            kind: Any = atom.aval
            return np.asarray(atom.val, kind.dtype)
        return env[atom]

    for step in trace.steps:
        operands = [read(atom) for atom in step.eqn.invars]
        if step.eqn.primitive.name in CALLS:
            results = _run(step.inner[0], operands, found, maps)
        else:
            if id(step) in found:
                reading = found[id(step)]
                whole = jnp.transpose(operands[0], reading.axes)
                maps.append(whole[reading.channels].astype(_tree.wide_dtype(whole.dtype)))
            results = bind(step.eqn, operands)
        env.update(zip(step.eqn.outvars, results, strict=True))
    return [read(atom) for atom in trace.jaxpr.outvars]
