"""RigL as a recipe."""

from __future__ import annotations

from functools import partial

import jax

from jaxprune import transforms
from jaxprune._scoring import Scores
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._method import Method, checked


def rigl(
    sparsity: float | None,
    *,
    key: jax.Array,
    total_steps: int,
    interval: int | None = None,
    within: PyTree | None = None,
    drop_fraction: float = 0.3,
    end_step: int | None = None,
    step_too: bool = False,
    scores: Scores | None = None,
    grow: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """RigL (the rigged lottery): `jaxprune.transforms.rigl` around the optimizer.

    Args:
      sparsity: fraction removed from the start, in [0, 1); `None` with an N:M pattern.
      key: a JAX random key for the first mask.
      total_steps: the length of training in steps.
      interval: steps between rewirings; the authors' 100 if omitted, or a thirtieth of training
        where that is less, but at least 5.
      within: a mask to start from in place of a random one; then pass ``sparsity=None``.
      drop_fraction: fraction of the kept weights that a move would drop at step 0.
      end_step: steps after which the mask rests; three quarters of training if omitted.
      step_too: whether the optimizer steps also where the mask moves.
      scores: what is dropped first; magnitude if omitted.
      grow: of which scores the highest grow; the size of the gradients if omitted.
      allocation: how the total is spread over leaves; ERK if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> rigl(0.9, key=jax.random.key(0), total_steps=1000).sparsity
      0.9

    References:
      Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020.
    """
    # At least 5: a rewiring takes the place of a step.
    interval = max(5, min(100, total_steps // 30)) if interval is None else interval
    transform = partial(
        transforms.rigl,
        sparsity=sparsity,
        key=key,
        total_steps=total_steps,
        interval=interval,
        within=within,
        drop_fraction=drop_fraction,
        end_step=end_step,
        step_too=step_too,
        scores=scores,
        grow=grow,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return checked(Method("rigl", sparsity, total_steps, transform=transform))
