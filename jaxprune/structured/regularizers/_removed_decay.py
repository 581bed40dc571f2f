"""Removed decay: weight decay of the channels that will go, growing until they are near zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, check_kept
from jaxprune.structured.regularizers._unit_squares import unit_squares
from jaxprune.structured.scores._members import Members


def removed_decay(
    groups: ChannelGroups, params: PyTree, kept: Sequence[Any], *, members: Members = "kernels"
) -> jax.Array:
    r"""Half the squared norm of all channels that are to go.

    With a strength that rises, this is growing regularisation (GReg-1): the channels are selected
    first, and pushed to zero slowly instead of being cut at once::

        strength = lambda step: jnp.minimum(1e-4 * (step // 5), 1.0)
        penalty = lambda params: removed_decay(groups, params, kept)
        optimizer = optax.chain(add_penalty(penalty, strength), optax.sgd(rate, momentum=0.9))

    Args:
      groups: from `channel_groups`.
      params: as for `group_lasso`.
      kept: for each group which channels stay, see `select`.
      members: as for `group_lasso`.

    Returns:
      A scalar, float32 at least.

    Raises:
      ValueError: as `group_lasso` and `masks`.
      TypeError: as `masks`.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[2.0, 1.0]]), "b": jnp.array([[0.0], [3.0]])}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> print(jp.structured.removed_decay(groups, params, [jnp.array([True, False])]))
      5.0

    References:
      Wang et al., Neural Pruning via Growing Regularization, ICLR 2021, section 3.2 (GReg-1: the
      factor grows by 1e-4 every 5 to 10 steps, up to 1).
    """
    gone = {
        group.name: ~stays for group, stays in zip(groups, check_kept(groups, kept), strict=True)
    }
    total = jnp.zeros(())
    for squares in unit_squares(groups, params, members, ()):
        part = 0.5 * jnp.sum(jnp.where(gone[squares.group.name], squares.values, 0))
        total = total.astype(part.dtype) + part
    return total
