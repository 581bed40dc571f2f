"""SET as a recipe."""

from __future__ import annotations

from functools import partial

import jax

from jaxprune import transforms
from jaxprune._scoring import Scores
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def set_(
    sparsity: float | None,
    *,
    key: jax.Array,
    total_steps: int,
    interval: int | None = None,
    within: PyTree | None = None,
    drop_fraction: float = 0.3,
    end_step: int | None = None,
    by_sign: bool = False,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Sparse evolutionary training (SET): `jaxprune.transforms.set_` around the optimizer.

    Args:
      sparsity: fraction removed from the start, in [0, 1); `None` with an N:M pattern.
      key: a JAX random key for the first mask and for what grows.
      total_steps: the length of training in steps.
      interval: steps between rewirings, an epoch in the original; a tenth of training if omitted.
      within: a mask to start from in place of a random one; then pass ``sparsity=None``.
      drop_fraction: fraction of the kept weights that a move drops.
      end_step: the last step after which the mask may move; the last but one if omitted.
      by_sign: whether positive and negative weights are dropped apart.
      scores: what is dropped first; magnitude if omitted.
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
      >>> set_(0.9, key=jax.random.key(0), total_steps=1000).sparsity
      0.9

    References:
      Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse
      Connectivity Inspired by Network Science, Nature Communications 9, 2018.
    """
    interval = tenth(total_steps) if interval is None else interval
    transform = partial(
        transforms.set_,
        sparsity=sparsity,
        key=key,
        total_steps=total_steps,
        interval=interval,
        within=within,
        drop_fraction=drop_fraction,
        end_step=end_step,
        by_sign=by_sign,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return checked(Method("set", sparsity, total_steps, transform=transform))
