"""The mask of an unpruned network."""

from __future__ import annotations

import jax

from jaxprune import _eager, _tree
from jaxprune._tree import PyTree


def dense(params: PyTree, *, where: _tree.Where | None = None) -> PyTree:
    """Returns the mask that keeps every prunable weight.

    Args:
      params: any pytree of arrays.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params``: all True where a leaf is prunable, `None` elsewhere.

    Raises:
      ValueError: if no leaf is prunable.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.sparsity(jp.masks.dense({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}))
      0.0
    """
    # Like the leaf: the mask of a sharded one lies where that lies.
    return jax.tree.map(lambda x: _eager.full_like(x, True, bool), _tree.prunable(params, where))
