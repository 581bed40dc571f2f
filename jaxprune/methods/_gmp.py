"""GMP as a recipe."""

from __future__ import annotations

from functools import partial

from jaxprune import transforms
from jaxprune._scoring import Scores
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def gmp(
    sparsity: float | None,
    *,
    total_steps: int,
    interval: int | None = None,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
    within: PyTree | None = None,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Gradual magnitude pruning (GMP): `jaxprune.transforms.gmp` around the optimizer.

    Args:
      sparsity: fraction removed in the end, in [0, 1); `None` with an N:M pattern, which is then
        reached step by step.
      total_steps: the length of training in steps.
      interval: steps between prunings; a tenth of training if omitted.
      begin_step: steps before the schedule begins.
      end_step: the step by which the schedule ends; by default the last interval only trains.
      initial: fraction removed when the schedule begins.
      power: exponent of the schedule in place of the cubic's 3, above 0; 1 for a straight line.
      within: a mask to start from; every later one lies inside it.
      scores: what decides which weights stay; magnitude if omitted.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method. It ends sparse: the final prune removes nothing.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> gmp(0.9, total_steps=1000).sparsity
      0.9

    References:
      Zhu & Gupta, To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
      Compression, 2017.
    """
    interval = tenth(total_steps) if interval is None else interval
    transform = partial(
        transforms.gmp,
        sparsity=sparsity,
        total_steps=total_steps,
        interval=interval,
        begin_step=begin_step,
        end_step=end_step,
        initial=initial,
        power=power,
        within=within,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return checked(Method("gmp", sparsity, total_steps, transform=transform))
