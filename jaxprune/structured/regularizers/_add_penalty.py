"""A penalty as an optax transform: its gradient is added to that of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune._tree import PyTree


class AddPenaltyState(NamedTuple):
    """State of `add_penalty`.

    Attributes:
      step: int32 scalar, updates so far.
    """

    step: jax.Array


def add_penalty(
    penalty: Callable[[PyTree], jax.Array], strength: Any
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of a penalty, times a strength that may grow.

    As if the loss had it, but the loss, its metrics and its program stay what they are.

    Position: first in a chain, before clipping and momentum, as `optax.add_decayed_weights` in SGD.

    Args:
      penalty: a function of the parameters, such as
        ``lambda params: jp.structured.group_lasso(groups, params)``.
      strength: a number, or a function of the number of updates so far.

    Returns:
      An optax transform.

    Raises:
      TypeError: if ``penalty`` is no function.
      ValueError: at the first update, if parameters are not passed.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import jaxprune as jp
      >>> penalty = lambda params: jnp.sum(jnp.abs(params["w"]))
      >>> transform = jp.structured.add_penalty(penalty, lambda step: 0.5 * step)
      >>> params = {"w": jnp.array([1.0, -2.0])}
      >>> zeros, state = {"w": jnp.zeros(2)}, transform.init(params)
      >>> for _ in range(2):
      ...     updates, state = transform.update(zeros, state, params)
      >>> updates["w"].tolist()
      [0.5, -0.5]
    """
    if not callable(penalty):
        raise TypeError(f"penalty is a function of the parameters; got {penalty!r}.")

    def init(params: PyTree) -> AddPenaltyState:
        del params
        return AddPenaltyState(jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[PyTree, AddPenaltyState]:
        del extra
        if params is None:
            raise ValueError("add_penalty needs the parameters: update(grads, state, params).")
        # Schedules mix integers and floats, which strict mode refuses.
        with jax.numpy_dtype_promotion("standard"):
            factor = strength(state.step) if callable(strength) else strength
        slopes = jax.grad(lambda p: penalty(p).astype(jnp.float32))(params)
        updates = jax.tree.map(
            lambda u, g: u + (jnp.asarray(factor, g.dtype) * g).astype(u.dtype), updates, slopes
        )
        return updates, AddPenaltyState(state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)
