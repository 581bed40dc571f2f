"""Exact zeros at the end of a chain, and nothing else."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune import _tree
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state
from jaxprune.transforms._mask_state import PruneMask


def zero_updates(mask: PyTree) -> optax.GradientTransformationExtraArgs:
    r"""Sets the updates of pruned weights to zero: $u \leftarrow m \odot u$.

    A pruned weight stays what it is: zero, if it was set to zero before. Gradients of pruned
    weights still enter the norms and moments of the members before this one, so kept weights do
    not move as in the sparse network. `fixed_mask` is the transform that takes care of both; this
    one is for chains that cannot be wrapped.

    Position: last in a chain, after the learning rate and weight decay.

    Args:
      mask: a tree like params: bool arrays (True = kept), `None` where a leaf is not prunable,
        or a whole subtree; or a function of the parameters that returns one, called by ``init``.
        It is copied into the state, where `get_mask` and `set_mask` find it.

    Returns:
      The transformation; its state is a `PruneMask`.

    Raises:
      TypeError: if a leaf of the mask is not bool.
      ValueError: if the mask has no leaf. From ``init``: if the mask is of another tree.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 0.0]])}
      >>> mask = {"kernel": jnp.array([[True, False]])}
      >>> tx = optax.chain(optax.sgd(0.5), transforms.zero_updates(mask))
      >>> updates, _ = tx.update({"kernel": jnp.ones((1, 2))}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      {'kernel': Array([[0.5, 0. ]], dtype=float32)}
    """
    _mask_state.check_rule(mask)

    def init(params: PyTree) -> PruneMask:
        return _mask_state.store(_mask_state.given(mask, params), params)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PruneMask]:
        del params, extra_args  # zeros need neither

        def zero(m: Any, u: Any) -> Any:
            return u if m is None else or_zero(m, u)

        return _tree.map_partial(zero, _mask_state.align(state.tree, updates), updates), state

    return optax.GradientTransformationExtraArgs(init, update)
