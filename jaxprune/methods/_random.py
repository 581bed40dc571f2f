"""Gradual random pruning as a recipe."""

from __future__ import annotations

from functools import partial

import jax

from jaxprune import scores, transforms
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def random(
    sparsity: float,
    *,
    key: jax.Array,
    total_steps: int,
    interval: int | None = None,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Gradual random pruning: the schedule of GMP, but which weights go is drawn.

    What any criterion has to beat. Random pruning followed by retraining is
    `jaxprune.training.imp` with ``scores=functools.partial(jp.scores.random, key)``.

    Args:
      sparsity: fraction removed in the end, in [0, 1).
      key: a JAX random key for the order in which weights go.
      total_steps: the length of training in steps.
      interval: steps between prunings; a tenth of training if omitted.
      begin_step: steps before the schedule begins.
      end_step: the step by which the schedule ends; by default the last interval only trains.
      initial: fraction removed when the schedule begins.
      power: exponent of the schedule in place of the cubic's 3, above 0; 1 for a straight line.
      within: a mask to start from; every later one lies inside it.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together, of those that fix no sparsity; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method. It ends sparse: the final prune removes nothing.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> random(0.9, key=jax.random.key(0), total_steps=1000).name
      'random'

    References:
      Le & Hua, Network Pruning That Matters: A Case Study on Retraining Variants, ICLR 2021 (random
      pruning as a baseline).
    """
    interval = tenth(total_steps) if interval is None else interval
    transform = partial(
        transforms.gmp,
        sparsity=sparsity,
        total_steps=total_steps,
        interval=interval,
        scores=partial(scores.random, key),
        begin_step=begin_step,
        end_step=end_step,
        initial=initial,
        power=power,
        within=within,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return checked(Method("random", sparsity, total_steps, transform=transform))
