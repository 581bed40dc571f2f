"""Magnitude: the absolute value of each weight."""

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree, Where


def magnitude(params: PyTree, *, where: Where | None = None) -> PyTree:
    """Scores every weight by its absolute value.

    ``score = |w|``, in the weight's own dtype.

    Args:
      params: any pytree of arrays.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, `None` where a leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable or, outside `jit`, if a weight is NaN or infinite.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.scores.magnitude({"kernel": jnp.array([[-2.0, 1.0]]), "bias": jnp.zeros(2)})
      {'bias': None, 'kernel': Array([[2., 1.]], dtype=float32)}

    References:
      Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015.
    """
    leaves = _tree.prunable(params, where)
    _tree.check_finite(leaves)
    return jax.tree.map(jnp.abs, leaves)
