"""Taylor: how much the loss changes, to first order, if a weight is set to zero."""

from __future__ import annotations

import jax.numpy as jnp

from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def taylor(
    params: PyTree, grads: PyTree, *, squared: bool = False, where: Where | None = None
) -> PyTree:
    """Scores every weight by the first-order change of the loss when it is removed.

    ``score = |w g|``, or ``(w g)^2`` if ``squared``, with ``g = dL/dw``. Both rank weights alike;
    the squares are the paper's, to be added up over the weights of a group.

    Args:
      params: any pytree of arrays.
      grads: gradients of the loss, a tree like ``params``; average them over several batches.
      squared: whether to return squares.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``grads`` is of another tree or lacks a prunable leaf
        or, outside `jit`, if a weight or a gradient is NaN or infinite.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params, grads = {"kernel": jnp.array([[-2.0, 1.0]])}, {"kernel": jnp.array([[0.5, 3.0]])}
      >>> jp.scores.taylor(params, grads)
      {'kernel': Array([[1., 3.]], dtype=float32)}

    References:
      Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, section
      3.1 (first-order expansion).
    """
    score = (lambda w, g: jnp.square(w * g)) if squared else (lambda w, g: jnp.abs(w * g))
    return _operands.map_products(score, params, grads, what="gradients", where=where)
