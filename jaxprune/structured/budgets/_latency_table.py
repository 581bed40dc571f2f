"""Latency from a table: the time of each product at a few widths, measured once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxprune import _jaxpr, metrics
from jaxprune._checks import check_number, check_steps
from jaxprune._tree import PyTree
from jaxprune.structured.budgets._filled import filled

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
Axis: TypeAlias = tuple[tuple[int, int], ...]


class LatencyTable:
    """How long matrix products and convolutions take on JAX's default device, by their widths.

    The time of a network is predicted as the sum of its products, each run alone. Their widths lie
    on a grid of four an octave (..., 64, 80, 96, 112, 128, ...); between two widths of it the time
    is interpolated. An entry is measured when it is asked for first, and kept: a search compiles
    small products instead of whole networks, and the next search finds them measured. What else a
    network does is not in the table, so `latency` scales its predictions by whole networks that it
    times.

    Of grouped convolutions and ragged products each width is measured as it is.

    Attributes:
      seconds: the entries, seconds a call of each product.

    Example:
      >>> import jax, jax.numpy as jnp, jaxprune as jp
      >>> table = jp.structured.LatencyTable(repeats=6, min_seconds=0)
      >>> x, w = jax.ShapeDtypeStruct((4, 20), "float32"), jax.ShapeDtypeStruct((20, 8), "float32")
      >>> table.predict(lambda params, x: x @ params, w, (x,)) >= 0
      True
      >>> len(table.seconds)  # 20 lies on the grid, between 16 and 24, and so does 8
      1

    References:
      Shen et al., Structural Pruning via Latency-Saliency Knapsack (HALP), NeurIPS 2022, whose
      tables give the latency of each layer for its numbers of input and output channels.
    """

    def __init__(self, *, repeats: int = 7, min_seconds: float = 0.002):
        """An empty table.

        Args:
          repeats: timings of each product, 6 or more; their median counts.
          min_seconds: how long a timing takes at least.

        Raises:
          ValueError: if there are too few repeats, or ``min_seconds`` is negative.
          TypeError: if one is no number.
        """
        self._repeats = check_steps("repeats", repeats, at_least=6)
        self._min_seconds = check_number("min_seconds", min_seconds, low=0)
        self._start: float | None = None
        self.seconds: dict[Any, float] = {}

    def predict(self, apply: Callable[..., Any], params: PyTree, inputs: tuple[Any, ...]) -> float:
        """The seconds that all products of ``apply(params, *inputs)`` take, one after the other.

        Args:
          apply: a function of JAX operations.
          params: its parameters, or their `jax.ShapeDtypeStruct`.
          inputs: its inputs, or their shapes.

        Returns:
          The sum. A product in a loop counts as often as it runs; once, if that is not known.
        """
        found = _jaxpr.products(apply, params, *inputs)
        return math.fsum(self._of(p) * (p.repeats or 1) for p in found if p.is_followed)

    def _of(self, product: _jaxpr.Product) -> float:
        """One product: interpolated between the widths of the grid around its own."""
        eqn: Any = product.eqn
        shapes = tuple(tuple(var.aval.shape) for var in eqn.invars)
        corners = []
        for axis in _widths(product):
            operand, place = axis[0]
            corners.append([(axis, n, part) for n, part in _around(shapes[operand][place])])
        total = 0.0
        for corner in itertools.product(*corners):
            at, weight = [list(shape) for shape in shapes], 1.0
            for axis, n, part in corner:
                weight *= part
                for operand, place in axis:
                    at[operand][place] = n
            total += weight * self._measured(eqn, tuple(map(tuple, at)))
        return total

    def _measured(self, eqn: Any, shapes: Shapes) -> float:
        dtypes = tuple(str(var.aval.dtype) for var in eqn.invars)
        key = eqn.primitive.name, shapes, dtypes, str(eqn.params)
        if key not in self.seconds:
            arguments = [
                filled(jax.ShapeDtypeStruct(shape, var.aval.dtype))
                for shape, var in zip(shapes, eqn.invars, strict=True)
            ]
            took = self._time(lambda *xs: eqn.primitive.bind(*xs, **eqn.params), *arguments)
            if self._start is None:  # a call of a program that does nothing
                self._start = self._time(lambda x: x, np.zeros((), np.float32))
            self.seconds[key] = max(took - self._start, 0.0)
        return self.seconds[key]

    def _time(self, f: Callable[..., Any], *arguments: Any) -> float:
        found = metrics.latency(f, *arguments, repeats=self._repeats, min_seconds=self._min_seconds)
        return found.median_seconds


def _around(n: int) -> list[tuple[int, float]]:
    """The widths of the grid around ``n``, and how much each counts. One if ``n`` is such a width.

    Four an octave; up to 8 every width.
    """
    step = max(1, 2 ** (n.bit_length() - 3))
    low, over = n - n % step, n % step
    if not over:
        return [(n, 1.0)]
    return [(low, 1 - over / step), (low + step, over / step)]


def _widths(product: _jaxpr.Product) -> list[Axis]:
    """The axes of the operands that are numbers of channels: those in, those out."""
    eqn: Any = product.eqn
    lhs, rhs = (var.aval.shape for var in eqn.invars[:2])
    name = eqn.primitive.name
    if name == "dot_general":
        contracted, batch = eqn.params["dimension_numbers"]
        axes: list[Axis] = []
        pairs = list(zip(*contracted, strict=True))
        if pairs:
            i, j = max(pairs, key=lambda pair: lhs[pair[0]])
            axes.append(((0, i), (1, j)))
        weights = 0 if product.leaves[0] and not product.leaves[1] else 1
        shape = (lhs, rhs)[weights]
        taken = {*contracted[weights], *batch[weights]}
        free = [i for i in range(len(shape)) if i not in taken]
        if free:
            axes.append(((weights, max(free, key=lambda i: shape[i])),))
        return axes
    groups = eqn.params.get("feature_group_count"), eqn.params.get("batch_group_count")
    if name == "conv_general_dilated" and groups == (1, 1):
        numbers = eqn.params["dimension_numbers"]
        out, into = numbers.rhs_spec[:2]
        return [((0, numbers.lhs_spec[1]), (1, into)), ((1, out),)]
    return []
