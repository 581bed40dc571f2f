"""Latency: how long a call may take, measured on the device at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxprune import metrics
from jaxprune._checks import check_number, check_steps
from jaxprune._tree import PyTree
from jaxprune.structured.budgets._budget import Budget, Measured, fraction_of
from jaxprune.structured.budgets._filled import filled
from jaxprune.structured.budgets._latency_table import LatencyTable


def latency(
    fraction: float | None = None,
    *,
    seconds: float | None = None,
    measurements: int = 8,
    repeats: int = 25,
    min_seconds: float = 0.01,
    table: LatencyTable | None = None,
) -> Budget:
    """A budget of time: of one compiled call with the example inputs of `channel_groups`.

    Every candidate is compiled and timed on JAX's default device, as `jaxprune.metrics.latency`
    does, so few are. The arrays are random numbers of the shapes, zeros where they are not
    floating. Time need not fall with every channel: hardware likes multiples, so ask for them
    (``round_to``). The notes state the interval of the measurement, which holds the true median
    with a probability of 95 %. A candidate is taken if its median meets the budget; the search ends
    where the budget lies in a candidate's interval, for no further one could be told from it.

    With a table the search goes by predictions, which compile single products. Whole networks are
    timed only to scale the predictions and to check what they lead to: the whole one, then each
    proposal, until one meets the budget by 1 % or its interval holds it.

    Args:
      fraction: what may be left of the time of the whole network, in (0, 1].
      seconds: or this many seconds a call.
      measurements: how many networks are compiled and timed at most, the whole one and the smallest
        among them.
      repeats: timings of each, 6 or more.
      min_seconds: how long a timing takes at least.
      table: of products that were timed, a new `LatencyTable` or one of an earlier search. For
        networks whose compilation takes long.

    Returns:
      A budget for `select`.

    Raises:
      ValueError: if there are both a fraction and seconds, or none; if one is out of range, or
        there are fewer than three measurements.
      TypeError: if a number or the table is of the wrong kind.

    Example:
      >>> import jaxprune as jp
      >>> budget = jp.structured.latency(0.5, measurements=6)
      >>> budget.unit, budget.amount, budget.probes
      ('seconds', 0.5, 6)
    """
    if (fraction is None) == (seconds is None):
        raise ValueError(
            f"latency takes a fraction or seconds; got fraction={fraction}, seconds={seconds}."
        )
    measurements = check_steps("measurements", measurements, at_least=3)
    if fraction is not None:
        amount = fraction_of("latency", check_number("fraction", fraction, low=0.0))
    else:
        amount = check_number("seconds", seconds, low=0.0)

    if table is not None and not isinstance(table, LatencyTable):
        raise TypeError(f"table is a jp.structured.LatencyTable(); got {table!r:.80}.")

    def measure(apply: Callable[..., Any], params: PyTree, inputs: tuple[Any, ...]) -> Measured:
        arguments = jax.tree.map(filled, (params, inputs))
        # A function of its own, so that nothing compiled for another candidate is reused.
        call = jax.jit(lambda p, xs: apply(p, *xs))
        found = metrics.latency(call, *arguments, repeats=repeats, min_seconds=min_seconds)
        interval = f"{_shown(found.low)} to {_shown(found.high)}"
        detail = f"median of {found.repeats} timings, its 95 % interval {interval}"
        return Measured(found.median_seconds, detail, found.low, found.high)

    return Budget("seconds", amount, fraction is not None, measure, measurements, _shown, table)


def _shown(seconds: float) -> str:
    return f"{seconds:.4g}"
