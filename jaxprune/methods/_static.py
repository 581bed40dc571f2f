"""Static sparse training as a recipe."""

from __future__ import annotations

from functools import partial

import jax

from jaxprune import transforms
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._method import Method, checked


def static(
    sparsity: float | None,
    *,
    key: jax.Array,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Static sparse training: a random mask from the start, `jaxprune.transforms.static`.

    Args:
      sparsity: fraction removed from the start, in [0, 1); `None` with an N:M pattern.
      key: a JAX random key for the mask.
      scores: what decides which weights stay; random if omitted.
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
      >>> static(0.9, key=jax.random.key(0)).sparsity
      0.9

    References:
      Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020 (the baseline of this
      name).
    """
    transform = partial(
        transforms.static,
        sparsity=sparsity,
        key=key,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return checked(Method("static", sparsity, transform=transform))
