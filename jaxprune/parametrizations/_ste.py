"""The straight-through estimator: masked weights forward, the gradient of your choice backward."""

from __future__ import annotations

from typing import Any, Literal

import jax

from jaxprune import _tree
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree


def masked(
    params: PyTree, mask: PyTree, *, backward: Literal["dense", "masked"] = "dense"
) -> PyTree:
    r"""Sets pruned weights to zero in the forward pass and says who gets a gradient.

    $$\hat w = m \odot w, \qquad
      \frac{\partial L}{\partial w} := \frac{\partial L}{\partial \hat w}
      \quad\text{(dense)} \qquad\text{or}\qquad
      m \odot \frac{\partial L}{\partial \hat w} \quad\text{(masked)}.$$

    "dense" is the straight-through estimator: pruned weights get the gradient that a weight in
    their place would get, so they can grow and return. "masked" is the true gradient.

    Args:
      params: any pytree of arrays.
      mask: a tree like ``params``: bool arrays, True = kept, `None` where a leaf is not prunable.
      backward: which weights get a gradient.

    Returns:
      The effective weights: +0.0 where the mask is False (also in place of NaN or infinity),
      unchanged elsewhere, dtypes kept.

    Raises:
      ValueError: if the trees differ or ``backward`` is another word.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxprune.parametrizations import masked
      >>> w, mask = jnp.array([3.0, 4.0]), jnp.array([True, False])
      >>> def loss(w, backward):
      ...     return jnp.sum(masked(w, mask, backward=backward) * jnp.array([1.0, 2.0]))
      >>> print(jax.grad(loss)(w, "dense"), jax.grad(loss)(w, "masked"))
      [1. 2.] [1. 0.]

    References:
      Bengio, Léonard, Courville, Estimating or Propagating Gradients Through Stochastic Neurons
      for Conditional Computation, 2013.
    """
    if backward not in ("dense", "masked"):
        raise ValueError(f"backward is 'dense' or 'masked'; got {backward!r}.")
    select = _straight_through if backward == "dense" else _select

    def choose(m: Any, w: Any) -> Any:
        return w if m is None else select(w, m)

    return _tree.map_partial(choose, mask, params)


def _select(w: jax.Array, m: jax.Array) -> jax.Array:
    return or_zero(m, w)


# A rule of forward mode: reverse mode follows by transposition, and products with Hessians, which
# differentiate twice, work as well. `w + stop_gradient(w * m - w)` would leave rounding errors
# where zeros belong.
@jax.custom_jvp
def _straight_through(w: jax.Array, m: jax.Array) -> jax.Array:
    return _select(w, m)


@_straight_through.defjvp
def _straight_through_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return _straight_through(*primals), tangents[0]
