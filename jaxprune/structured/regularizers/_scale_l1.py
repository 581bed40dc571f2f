"""L1 norm of the scales of norms: the penalty of network slimming."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured.regularizers._unit_squares import arrays_in


def scale_l1(groups: ChannelGroups, params: PyTree, *, name: str = "scale") -> jax.Array:
    r"""The penalty of network slimming, $\sum |\gamma|$ over the scales of channels' norms.

    For a loss or for `add_penalty`; `norm_scale` then scores the channels. Scales of norms whose
    channels cannot go are left in peace.

    Args:
      groups: from `channel_groups`.
      params: as for `group_lasso`.
      name: what the scales are called, as for `norm_scale`.

    Returns:
      A scalar, float32 at least.

    Raises:
      ValueError: if no group has a scale of this name; if parameters are missing or of other
        shapes.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["kernel"] * params["scale"]) @ params["out"]
      >>> params = {"kernel": jnp.ones((1, 2)), "scale": jnp.array([-3.0, 1.0])}
      >>> params["out"] = jnp.ones((2, 1))
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones(1))
      >>> print(jp.structured.scale_l1(groups, params))
      4.0

    References:
      Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
      equation 1.
    """
    paths = {
        m.path
        for group in groups
        for m in group.members
        if m.role == "along" and _tree.own_name(m.path) == name
    }
    if not paths:
        raise ValueError(
            f"no channel that can go has a scale called {name!r}. Say what it is called, name=..."
        )
    arrays, total = arrays_in(groups, params), jnp.zeros(())
    for path in sorted(paths):
        array = arrays(path)
        part = jnp.sum(jnp.abs(array.astype(_tree.wide_dtype(array.dtype))))
        total = total.astype(part.dtype) + part
    return total
