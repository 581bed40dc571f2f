"""Movement: weights that training moves away from zero stay."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def movement(
    params: PyTree,
    grads: PyTree,
    *,
    previous: PyTree | None = None,
    rate: float | jax.Array = 1.0,
    where: Where | None = None,
) -> PyTree:
    """Scores every weight by how far gradient steps have moved it away from zero.

    ``score = previous - rate w g``, added up over training steps. It is positive for weights that
    move away from zero and negative for those that shrink, whatever their size. Call it in every
    (jitted) training step, with the weights before the update.

    Args:
      params: any pytree of arrays.
      grads: gradients of the loss at ``params``, a tree like it.
      previous: the scores returned by the step before; zero if omitted.
      rate: learning rate of the scores, a number or a scalar array.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``grads`` or ``previous`` is of another tree or lacks
        a prunable leaf or, outside `jit`, if a value is NaN or infinite.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params, grads = {"kernel": jnp.array([[-2.0, 1.0]])}, {"kernel": jnp.array([[0.5, 3.0]])}
      >>> scores = jp.scores.movement(params, grads)
      >>> jp.scores.movement(params, grads, previous=scores)
      {'kernel': Array([[ 2., -6.]], dtype=float32)}

    References:
      Sanh et al., Movement Pruning: Adaptive Sparsity by Fine-Tuning, NeurIPS 2020, section 4.
    """
    step = _operands.map_products(
        lambda w, g: -jnp.asarray(rate, w.dtype) * w * g,
        params,
        grads,
        what="gradients",
        where=where,
    )
    if previous is None:
        return step
    repair = "Pass the scores that the step before returned, with the same `where`."
    _tree.check_matches(previous, step, what="previous scores")
    pairs = _operands.paired(step, previous, what="previous scores", repair=repair, where=_all)
    sums = [operator.add(*_operands.widened(old, new)) for _, new, old in pairs]
    return _operands.unflatten_like(step, _all, sums)


def _all(path: str, leaf: Any) -> bool:
    return True
