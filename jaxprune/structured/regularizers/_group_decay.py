"""Group decay: weight decay that is the stronger the less a channel matters in its group."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.regularizers._unit_squares import unit_squares
from jaxprune.structured.scores._members import Members


def group_decay(
    groups: ChannelGroups,
    params: PyTree,
    *,
    alpha: float = 4.0,
    members: Members = "kernels",
    skip: Sequence[str] = (),
) -> jax.Array:
    r"""Sparsity learning of DepGraph, as a penalty for a loss or for `add_penalty`.

    $$R = \tfrac12 \sum_g \sum_{u \in g} \gamma_u \lVert w_u \rVert_2^2, \qquad
      \gamma_u = 2^{\alpha (I_{\max} - I_u) / (I_{\max} - I_{\min})}, \quad
      I_u = \lVert w_u \rVert_2$$

    with maximum and minimum over the channels of a group. No gradient flows through $\gamma$: the
    strongest channel of a group decays with factor 1, the weakest with $2^\alpha$. The half is
    ours, so that ``add_penalty(..., strength)`` adds ``strength * gamma * w``, as the code does.

    Args:
      groups: from `channel_groups`.
      params: as for `group_lasso`.
      alpha: how much more the weakest channels decay.
      members: as for `group_lasso`.
      skip: as for `group_lasso`.

    Returns:
      A scalar, float32 at least.

    Raises:
      ValueError: as `group_lasso`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[2.0, 1.0]]), "b": jnp.array([[0.0], [0.0]])}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> jax.grad(lambda p: jp.structured.group_decay(groups, p))(params)["a"].tolist()
      [[2.0, 16.0]]

    References:
      Fang et al., DepGraph, CVPR 2023, equation 4.
    """
    total = jnp.zeros(())
    for squares in unit_squares(groups, params, members, skip):
        norms = jnp.sqrt(jax.lax.stop_gradient(squares.values))
        low = jnp.min(jnp.where(squares.open, norms, jnp.inf))
        high = jnp.max(jnp.where(squares.open, norms, -jnp.inf))
        span = jnp.where(high > low, high - low, jnp.ones_like(high))
        factor = jnp.exp2(alpha * (high - norms) / span)
        part = 0.5 * jnp.sum(jnp.where(squares.open, factor * squares.values, 0))
        total = total.astype(part.dtype) + part
    return total
