"""Gradual random pruning as a recipe."""

from functools import partial
from typing import Any

import jax

from jaxprune import scores, transforms
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def random(
    sparsity: float,
    *,
    key: jax.Array,
    total_steps: int,
    interval: int | None = None,
    **options: Any,
) -> Method:
    """Gradual random pruning: the schedule of GMP, but which weights go is drawn.

    What any criterion has to beat. Random pruning followed by retraining is
    `jaxprune.training.imp` with ``scores=functools.partial(jp.scores.random, key)``.

    Args:
      sparsity: fraction removed in the end, in (0, 1).
      key: a JAX random key for the order in which weights go.
      total_steps: the length of training in steps.
      interval: steps between prunings; a tenth of training if omitted.
      **options: further options of `jaxprune.transforms.gmp`.

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
        **options,
    )
    return checked(Method("random", sparsity, total_steps, transform=transform))
