"""Turning the mask that moves into one that stays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state
from jaxprune.transforms._moving import MovingMaskState


def freeze(opt_state: PyTree) -> PyTree:
    """Returns the optimizer state with its mask fixed: it moves no more, whatever the steps.

    From then on every transform with a moving mask is `fixed_mask` with the mask it has, e.g. to
    fine-tune a network after `rigl`, or for longer than planned. `set_mask` still sets it. The
    state keeps its structure, so a compiled step is not compiled again.

    Position: none; it writes the state of any optimizer with a jaxprune transform inside. Gradient
    editors (`gsm`, `lc`) have no mask and go on.

    Args:
      opt_state: any optimizer state.

    Returns:
      The new state; nothing else changes.

    Raises:
      ValueError: if there is no mask in the state.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0]])}
      >>> tx = transforms.one_shot(optax.sgd(0.5), 0.5, step=1)
      >>> state = transforms.freeze(tx.init(params))
      >>> updates, state = tx.update({"kernel": jnp.ones((1, 2))}, state, params)
      >>> transforms.get_mask(state)
      {'kernel': Array([[ True,  True]], dtype=bool)}
    """
    _mask_state.nodes(opt_state)  # raises if there is none

    def visit(x: Any) -> Any:
        if not isinstance(x, MovingMaskState):
            return x
        inner = jax.tree.map(visit, x.inner_state, is_leaf=_is_moving)
        # A map, for `nnx.Optimizer` boxes every array of a state.
        return x._replace(frozen=jax.tree.map(jnp.ones_like, x.frozen), inner_state=inner)

    return jax.tree.map(visit, opt_state, is_leaf=_is_moving)


def _is_moving(x: Any) -> bool:
    return isinstance(x, MovingMaskState)
