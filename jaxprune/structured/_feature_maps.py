"""Feature maps: what convolutions and pooling over the image read, channel by channel."""

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxprune import _tree
from jaxprune._rearrangement import bind
from jaxprune.structured._graph import Graph
from jaxprune.structured._rule import Step
from jaxprune.structured._trace import Trace

# Primitives that hold one function, the first of their step's, which computes their results.
_CALLS = frozenset(
    {
        "jit", "pjit", "closed_call", "core_call", "call", "remat", "remat2", "checkpoint",
        "custom_jvp_call", "custom_vjp_call",
    }
)  # fmt: skip


class Maps(NamedTuple):
    """What was measured of the feature maps of each channel of a group.

    Attributes:
      total: the sum over maps, float32 ``[size of the group]``.
      number: how many maps, float32 ``[size of the group]``.
    """

    total: jax.Array
    number: jax.Array


class _Reader(NamedTuple):
    """The axes of an operand ``[images, channels, H, W]``, in any order."""

    channels: int
    images: int
    height: int
    width: int


def feature_maps(
    graph: Graph,
    arrays: Sequence[Any],
    measure: Callable[[jax.Array], jax.Array],
    *,
    skip: Container[int] = (),
) -> list[Maps]:
    """Runs a followed function, and measures the feature maps of every channel.

    Calls are looked into; loops and branches run as they are, and their insides count nothing.

    Args:
      graph: the function.
      arrays: the leaves of its parameters and inputs.
      measure: from maps ``[n, H, W]``, float32 at least, to a number each, ``[n]``.
      skip: the numbers of groups to leave out.

    Returns:
      One entry a group.
    """
    owners = {
        atom: (i, unit)
        for i, atoms in enumerate(graph.atoms)
        if i not in skip
        for unit, atom in enumerate(graph.units.roots(np.array(atoms)).tolist())
    }
    found = [Maps(jnp.zeros(group.size), jnp.zeros(group.size)) for group in graph.groups]

    def tap(step: Step, operand: Any) -> None:
        reader = _reader(graph, step)
        if reader is None:
            return
        parts = graph.units.parts(step.operands[0].nodes[reader.channels])
        held = [
            (k, *owners[atom]) for k, atoms in enumerate(parts) for atom in atoms if atom in owners
        ]
        if not held:
            return
        maps = jnp.transpose(operand, reader).astype(_tree.wide_dtype(operand.dtype))
        read = sorted({k for k, _, _ in held})
        images, (height, width) = maps.shape[1], maps.shape[2:]
        numbers = measure(maps[np.array(read)].reshape(-1, height, width))
        sums = jnp.sum(numbers.reshape(len(read), images), axis=1, dtype=jnp.float32)
        for i in {i for _, i, _ in held}:
            rows, units = np.array([(read.index(k), u) for k, j, u in held if j == i]).T
            total, number = found[i]
            found[i] = Maps(total.at[units].add(sums[rows]), number.at[units].add(images))

    _run(graph.trace, arrays, tap)
    return found


def _reader(graph: Graph, step: Step) -> _Reader | None:
    """The axes of a step's first operand, if it reads images with channels."""
    name, params = step.eqn.primitive.name, step.eqn.params
    if name == "conv_general_dilated" and len(params["dimension_numbers"].lhs_spec) == 4:
        images, channels, height, width = params["dimension_numbers"].lhs_spec
        return _Reader(channels, images, height, width)
    if name in ("reduce_sum", "reduce_max") and len(step.operands[0].nodes) == 4:
        rest = [axis for axis in range(4) if axis not in params["axes"]]
        if len(rest) == 2:
            # Images cannot vanish, channels can.
            images, channels = sorted(
                rest, key=lambda axis: any(graph.units.parts(step.operands[0].nodes[axis]))
            )
            return _Reader(channels, images, *params["axes"])
    return None


def _run(trace: Trace, arrays: Sequence[Any], tap: Callable[[Step, Any], None]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(trace.jaxpr.constvars, trace.consts, strict=True))
    env.update(zip(trace.jaxpr.invars, arrays, strict=True))

    def read(atom: Any) -> Any:
        if isinstance(atom, Literal):
            kind: Any = atom.aval
            return np.asarray(atom.val, kind.dtype)
        return env[atom]

    for step in trace.steps:
        operands = [read(atom) for atom in step.eqn.invars]
        if step.eqn.primitive.name in _CALLS:
            results = _run(step.inner[0], operands, tap)
        else:
            if operands:
                tap(step, operands[0])
            results = bind(step.eqn, operands)
        env.update(zip(step.eqn.outvars, results, strict=True))
    return [read(atom) for atom in trace.jaxpr.outvars]
