"""Group lasso: the sum of the norms of all channels, which draws whole channels to zero."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.regularizers._unit_squares import unit_squares
from jaxprune.structured.scores._members import Members


def group_lasso(
    groups: ChannelGroups,
    params: PyTree,
    *,
    members: Members = "kernels",
    skip: Sequence[str] = (),
) -> jax.Array:
    r"""The group lasso over channels, as a penalty for a loss or for `add_penalty`.

    $$R(\theta) = \sum_u \sqrt{n_u}\, \lVert w_u \rVert_2$$

    over all channels u of all groups, where $w_u$ are the $n_u$ entries that belong to the channel
    in all members that count. Its gradient has one length for every channel, however small, so
    that unneeded ones reach zero; at zero it is zero.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped, or of ``{"params": ...}`` the params alone.
      members: which members count, as for `magnitude`; by default the kernels that make a channel
        and those that read it.
      skip: paths, as in `ratios`, of layers that are left in peace.

    Returns:
      A scalar, float32 at least.

    Raises:
      ValueError: if parameters are missing or of other shapes, or no member that counts holds some
        channel.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([[4.0], [0.0]])}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> print(f"{jp.structured.group_lasso(groups, params):.4f}")
      7.0711

    References:
      Yuan & Lin, Model selection and estimation in regression with grouped variables, 2006,
      equation 2.1; Wen et al., Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016.
    """
    total = jnp.zeros(())
    for squares in unit_squares(groups, params, members, skip):
        alive = squares.values > 0
        norm = jnp.sqrt(jnp.where(alive, squares.values, jnp.ones_like(squares.values)))
        weights = jnp.asarray(np.sqrt(squares.entries) * squares.open, norm.dtype)
        part = jnp.sum(jnp.where(alive, weights * norm, jnp.zeros_like(norm)))
        total = total.astype(part.dtype) + part
    return total
