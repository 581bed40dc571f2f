"""Random: the baseline that every criterion must beat."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree, Where

# Leaves up to this size that are equally large are drawn in one go, which compiles one draw for all
# of them. The copy that it takes would weigh with larger ones.
_LARGEST = 1 << 19


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
    return treedef.unflatten(_drawn(key, tuple(leaf.shape for leaf in leaves)))


@partial(jax.jit, static_argnames="shapes")
def _drawn(key: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(len(shapes)))
    drawn: dict[int, jax.Array] = {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        size = math.prod(shape)
        groups.setdefault((size,) if size <= _LARGEST else shape, []).append(i)
    for shape, members in groups.items():
        if math.prod(shape) > _LARGEST:
            drawn |= {i: _uniform(keys[i], shape) for i in members}
            continue
        rows = jax.vmap(partial(_uniform, shape=shape))(keys[np.asarray(members)])
        drawn |= {i: rows[j].reshape(shapes[i]) for j, i in enumerate(members)}
    return [drawn[i] for i in range(len(shapes))]


# Traced once for leaves of one shape.
@partial(jax.jit, static_argnames="shape")
def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32)
