"""SNIP: single-shot network pruning by connection sensitivity."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def snip(params: PyTree, grads: PyTree, *, where: Where | None = None) -> PyTree:
    """Scores every weight by its normalised connection sensitivity.

    ``score_j = |w_j g_j| / sum_k |w_k g_k|``, the sum over all prunable weights. Made for a single
    prune before training: ``grads`` are those of one batch (or a few) at the initial weights.

    Args:
      params: any pytree of arrays.
      grads: gradients of the loss, a tree like ``params``.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, that add up to 1
      (traced, to 0 if all are zero), `None` where a leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``grads`` is of another tree or lacks a prunable leaf
        or, outside `jit`, if a weight or a gradient is NaN or infinite or every product is zero.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params, grads = {"kernel": jnp.array([[-2.0, 1.0]])}, {"kernel": jnp.array([[0.5, 3.0]])}
      >>> jp.scores.snip(params, grads)
      {'kernel': Array([[0.25, 0.75]], dtype=float32)}

    References:
      Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019,
      equation 6.
    """
    products = _operands.map_products(
        lambda w, g: jnp.abs(w * g), params, grads, what="gradients", where=where
    )
    leaves = jax.tree.leaves(products)
    dtype = _tree.wide_dtype(*(leaf.dtype for leaf in leaves))
    total = sum((jnp.sum(leaf).astype(dtype) for leaf in leaves), jnp.zeros((), dtype))
    if _tree.known(~(total > 0)):
        raise ValueError(
            "every product of weight and gradient is zero, so SNIP cannot tell weights apart. "
            "Pass gradients of a batch on which the loss depends on the weights."
        )
    total = jnp.where(total > 0, total, jnp.ones_like(total))
    return jax.tree.map(lambda leaf: leaf / total.astype(leaf.dtype), products)
