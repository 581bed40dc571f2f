"""Average: scores of channels over batches."""

from __future__ import annotations

import jax

from jaxprune._checks import check_number
from jaxprune._tree import PyTree


def average(previous: PyTree | None, new: PyTree, *, momentum: float = 0.9) -> PyTree:
    """Moves a running average of scores: ``momentum * previous + (1 - momentum) * new``.

    Args:
      previous: the average so far; `None` at the first call, which returns ``new``.
      new: scores of one batch.
      momentum: weight of the past, in [0, 1].

    Returns:
      The average, a tree like ``new``.

    Raises:
      ValueError: if ``momentum`` lies outside [0, 1].

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> scores = jp.structured.average(None, (jnp.array([1.0, 0.0]),))
      >>> jp.structured.average(scores, (jnp.array([0.0, 0.0]),), momentum=0.5)
      (Array([0.5, 0. ], dtype=float32),)

    References:
      Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, section 4 and
      its code (momentum 0.9).
    """
    momentum = check_number("momentum", momentum, low=0.0, high=1.0)
    if previous is None:
        return new
    return jax.tree.map(lambda a, b: momentum * a + (1 - momentum) * b, previous, new)
