"""Exact zeros whatever an optimizer does with the updates of the transform inside."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _wrap


def keep_zeros(inner: Any) -> optax.GradientTransformationExtraArgs:
    r"""Wraps an optimizer that holds a mask somewhere inside, so that pruned weights end at zero.

    A transform that prunes belongs outermost. Where it cannot be, what stands behind it changes its
    updates, and pruned weights do not arrive at zero: ``optax.lookahead(gmp(...), ...)`` brings
    them back from its slow copy, ``optax.chain(fixed_mask(...), optax.scale(0.5))`` goes half the
    way. This reads the mask from the state after each step and sets the updates of pruned weights
    to minus the weight; of `optax.LookaheadParams` those of both copies.

    Kept weights move as ``inner`` has it. Where the order is free, wrap the other way around, which
    also keeps gradients and moments of pruned weights out of norms: ``gmp(optax.lookahead(...))``.

    Position: outermost.

    Args:
      inner: an optimizer whose state holds one mask, or several that agree.

    Returns:
      The transformation. Its state is that of ``inner``, its ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer.
      ValueError: from ``init``: if the state holds no mask. From ``update``: if ``params`` is
        missing.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0]])}
      >>> mask = {"kernel": jnp.array([[True, False]])}
      >>> halved = optax.chain(transforms.fixed_mask(optax.sgd(0.5), mask), optax.scale(0.5))
      >>> tx = transforms.keep_zeros(halved)
      >>> updates, _ = tx.update({"kernel": jnp.ones((1, 2))}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      {'kernel': Array([[0.75, 0.  ]], dtype=float32)}
    """
    tx = _wrap.as_transformation(inner, name="keep_zeros")

    def init(params: PyTree) -> optax.OptState:
        state = tx.init(params)
        if not _mask_state.is_placeholder(params):
            _mask_state.nodes(state)  # raises if there is none
        return state

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        _wrap.check_params(params, updates, name="keep_zeros")
        updates, state = tx.update(updates, state, params, **extra_args)
        network = _wrap.network_of(params)
        mask = _mask_state.align(_mask_state.get_mask(state, copy=False), network)
        return _wrap.to_zero(mask, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)
