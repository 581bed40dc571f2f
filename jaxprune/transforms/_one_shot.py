"""One-shot pruning at a given step."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune import masks
from jaxprune._scoring import Scores
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms._prune_at import pruning


def one_shot(
    inner: Any,
    sparsity: float | None,
    *,
    step: int,
    total_steps: int | None = None,
    within: PyTree | None = None,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that the network is pruned once, after a given step.

    With the last step of training it is the final hard prune of methods that only prepare for one
    (`gsm`, `lc`); earlier, the steps after it retrain. With `jaxprune.scores.snip` and ``step=1``
    it prunes at initialization, after one step; `jaxprune.scores.grasp` asks ``update`` for its
    ``hessian_gradient``.

    Position: outermost, around the whole chain, as `fixed_mask`. Under a `MultiSteps` outside,
    steps are those that happen: one in k calls. Divide the lengths by k, or put it inside.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: fraction removed, in [0, 1); `None` with an N:M pattern.
      step: the number of steps after which to prune; 1 is the first.
      total_steps: the length of training, to check ``step`` against.
      within: as for `prune_at`.
      scores: as for `prune_at`.
      allocation: as for `prune_at`.
      pattern: as for `prune_at`.
      where: as for `prune_at`.
      stacked: as for `prune_at`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: as `prune_at`.
      ValueError: as `prune_at`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0]])}
      >>> tx = transforms.one_shot(optax.sgd(0.5), 0.5, step=1)
      >>> updates, state = tx.update({"kernel": jnp.ones((1, 2))}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      {'kernel': Array([[0. , 1.5]], dtype=float32)}
    """
    return pruning(
        inner,
        (step,),
        (sparsity,),
        name="one_shot",
        total_steps=total_steps,
        within=within,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
