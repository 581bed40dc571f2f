"""Random: the baseline that every criterion of channels must beat."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprune.structured._groups import ChannelGroups


def random(key: jax.Array, groups: ChannelGroups) -> tuple[jax.Array, ...]:
    """Scores every channel by a uniform random number in [0, 1).

    Each group draws from its own key (``fold_in(key, i)`` for the i-th group), so its scores do not
    depend on the sizes of the others.

    Args:
      key: a JAX random key; consumed, do not use it again.
      groups: from `channel_groups`.

    Returns:
      One float32 array a group, ``[size of the group]``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 4)), "b": jnp.ones((4, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> scores = jp.structured.random(jax.random.key(0), groups)
      >>> [kept.sum() for kept in jp.structured.select(groups, scores, 0.75)]
      [np.int64(1)]

    References:
      Le & Hua, Network Pruning That Matters: A Case Study on Retraining Variants, ICLR 2021: with
      the right learning rate, randomly removed filters rival the published criteria.
    """
    return tuple(
        jax.random.uniform(jax.random.fold_in(key, i), (group.size,), jnp.float32)
        for i, group in enumerate(groups)
    )
