"""SFP as a recipe."""

from __future__ import annotations

from functools import partial

from jaxprune import transforms
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def sfp(
    sparsity: float | None,
    *,
    total_steps: int,
    interval: int | None = None,
    begin_step: int = 0,
    end_step: int | None = None,
    reset_moments: bool = False,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Soft filter pruning (SFP): `jaxprune.transforms.soft` around the optimizer.

    Whole filters of convolutions by default. The last step of training is a reset, so the network
    ends sparse.

    Args:
      sparsity: fraction removed of the filters of each layer, in [0, 1); `None` with an N:M
        pattern.
      total_steps: the length of training in steps.
      interval: steps between resets, an epoch in the original; a tenth of training if omitted.
      begin_step: steps before the first interval begins.
      end_step: the step after which the last reset comes; ``total_steps`` if omitted.
      reset_moments: whether a reset sets the moments of what it takes to zero, too.
      scores: what decides which weights stay; magnitude if omitted.
      allocation: how the total is spread over leaves; uniform if omitted.
      pattern: which weights go together; output channels if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable; the convolutions if this and
        ``pattern`` are omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> sfp(0.3, total_steps=1000).sparsity
      0.3

    References:
      He, Kang, Dong, Fu, Yang, Soft Filter Pruning for Accelerating Deep Convolutional Neural
      Networks, IJCAI 2018.
    """
    every = tenth(total_steps) if interval is None else interval
    transform = partial(
        transforms.soft,
        sparsity=sparsity,
        total_steps=total_steps,
        every=every,
        begin_step=begin_step,
        end_step=end_step,
        reset_moments=reset_moments,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return checked(Method("sfp", sparsity, total_steps, transform=transform))
