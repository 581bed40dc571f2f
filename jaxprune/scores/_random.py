"""Random: the baseline that every criterion must beat."""

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree, Where


def random(key: jax.Array, params: PyTree, *, where: Where | None = None) -> PyTree:
    """Scores every weight by a uniform random number in [0, 1).

    Each leaf draws from its own key (``fold_in(key, i)`` for the i-th prunable leaf), so the
    scores of a leaf do not depend on the shapes of the others.

    Args:
      key: a JAX random key; consumed, do not use it again.
      params: any pytree of arrays; only shapes matter.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of float32 arrays, `None` where a leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.ones((4, 2))}
      >>> scores = jp.scores.random(jax.random.key(0), params)
      >>> jp.sparsity(jp.masks.make(scores, 0.5))
      0.5

    References:
      Le & Hua, Network Pruning That Matters: A Case Study on Retraining Variants, ICLR 2021:
      with the right learning rate, retrained random pruning rivals the published criteria.
    """
    leaves, treedef = jax.tree.flatten(_tree.prunable(params, where))
    drawn = [
        jax.random.uniform(jax.random.fold_in(key, i), leaf.shape, jnp.float32)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, drawn)
