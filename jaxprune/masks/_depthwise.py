"""A ready ``where`` that leaves depthwise convolutions dense."""

from __future__ import annotations

from typing import Any, Literal

from jaxprune._checks import check_choice
from jaxprune._tree import Where, default_where, own_name, owner

_PROJECTIONS = ("query", "key", "value", "qkv")


def without_depthwise(
    layout: Literal["flax", "haiku", "equinox"] = "flax", *, where: Where = default_where
) -> Where:
    """Returns a ``where`` that takes what another one takes, but no depthwise kernels.

    A depthwise convolution has one input channel a group: few weights, each of which all of its
    channel depends on. Pruned by magnitude with the rest it loses more accuracy than its share of
    the weights is worth. Its kernel is told by its shape: an axis of input channels of length 1, in
    Flax and Haiku ``[..., 1, out]``, in Equinox, as in PyTorch, ``[out, 1, ...]``; or by the name
    that Keras gives it, ``depthwise_kernel [h, w, in, multiplier]``. Projections to a single head
    of attention, ``query/kernel [features, 1, size]``, only look like one and are taken.

    The first convolution on grey images has that shape, too, and is left dense with them; to prune
    it, write the rule by the path.

    Args:
      layout: the framework that says where input channels are.
      where: what is prunable otherwise.

    Returns:
      ``where(path, leaf) -> bool``.

    Raises:
      ValueError: if the layout is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {
      ...     "depthwise": {"kernel": jnp.ones((3, 3, 1, 8))},
      ...     "pointwise": {"kernel": jnp.ones((1, 1, 8, 4))},
      ... }
      >>> _, mask = jp.prune(params, 0.5, where=jp.masks.without_depthwise())
      >>> mask["depthwise"]["kernel"] is None, jp.sparsity(mask)
      (True, 0.5)

    References:
      Zhu & Gupta, To Prune, or Not to Prune, 2017, and Evci et al., Rigging the Lottery, ICML 2020,
      leave the depthwise layers of MobileNet dense.
    """
    check_choice("layout", layout, ("flax", "haiku", "equinox"))
    axis = 1 if layout == "equinox" else -2

    def takes(path: str, leaf: Any) -> bool:
        if not where(path, leaf) or own_name(path).lower() == "depthwise_kernel":
            return False
        depthwise = leaf.ndim > 2 and leaf.shape[axis] == 1 and max(leaf.shape) > 1
        return not depthwise or owner(path).lower() in _PROJECTIONS

    return takes
