"""Magnitude: the absolute value of each weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprune import _eager, _host, _tree
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
    arrays, treedef = jax.tree.flatten(leaves)
    here = _host.views(arrays)
    if _tree.is_traced(arrays):  # nothing can be said of their values
        scores = [jnp.abs(x) for x in arrays]
    elif here is None:
        scored = _eager.together(_scored, [_eager.Row(x) for x in arrays])
        paths = [path for path, _ in _tree.named_leaves(leaves)]
        _tree.check_worst(paths, [worst for _, worst in scored])
        scores = [score for score, _ in scored]
    else:
        _tree.check_finite(leaves)
        scores = [_host.to_jax(_host.sizes(x), like) for x, like in zip(here, arrays, strict=True)]
    return treedef.unflatten(scores)


def _scored(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.abs(x), _tree.worst(x)
