"""DPF as a recipe."""

from __future__ import annotations

from jaxprune import parametrizations
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method


def dpf(
    sparsity: float,
    *,
    total_steps: int,
    interval: int | None = None,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
    refresh: int = 16,
    at_targets: bool = True,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Dynamic pruning with feedback (DPF): `jaxprune.parametrizations.dpf`.

    Args:
      sparsity: fraction removed in the end, in [0, 1).
      total_steps: the length of training in steps.
      interval: steps between rises of the target; a tenth of training if omitted.
      begin_step: steps before the schedule begins.
      end_step: the step by which the schedule ends; by default the last interval only trains.
      initial: fraction removed when the schedule begins.
      power: exponent of the schedule in place of the cubic's 3, above 0; 1 for a straight line.
      refresh: steps between masks at one target.
      at_targets: whether a target that moves brings a mask at once.
      scores: what decides which weights stay; magnitude if omitted.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together, of those that fix no sparsity; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> dpf(0.9, total_steps=1000).sparsity
      0.9

    References:
      Lin et al., Dynamic Model Pruning with Feedback, ICLR 2020.
    """
    interval = tenth(total_steps) if interval is None else interval
    p = parametrizations.dpf(
        sparsity,
        total_steps=total_steps,
        interval=interval,
        begin_step=begin_step,
        end_step=end_step,
        initial=initial,
        power=power,
        refresh=refresh,
        at_targets=at_targets,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return Method("dpf", sparsity, total_steps, parametrization=p)
