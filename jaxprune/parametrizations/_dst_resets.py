"""Restarting the thresholds of dynamic sparse training between two steps of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxprune._extra_args import with_extra_args
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree
from jaxprune.parametrizations import _dst_units as _units
from jaxprune.parametrizations import _leaves
from jaxprune.parametrizations._dst import DstTrainable


def dst_resets(
    inner: Any,
    *,
    reset_at: float = 0.01,
    axis: _units.Axes | Callable[[str, Any], _units.Axes] | None = None,
    layout: Literal["flax", "haiku", "equinox"] | None = None,
    stacked: Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps the optimizer of `dst`: writes 0 over the thresholds of a leaf that is all but empty.

    After a step that leaves no more than the fraction ``reset_at`` of a leaf, or of a layer stacked
    in it, its thresholds are exactly 0. The optimizer's moments go on, as in the authors' code,
    where the forward pass does it.

    Position: outermost, around the whole chain.

    Args:
      inner: an optax optimizer of what `dst` trains, or anything with ``init`` and ``update``.
      reset_at: as for `dst`.
      axis: as for `dst`.
      layout: as for `dst`.
      stacked: as for `dst`.

    Returns:
      The transformation. Its state is that of ``inner``, its ``update`` needs ``params``.

    Raises:
      ValueError: as `dst`. From ``update``: if ``params`` is missing.
      TypeError: as `dst`. From ``update``: if ``params`` is no `DstTrainable`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import parametrizations
      >>> trainable, _ = parametrizations.dst().init({"kernel": jnp.array([[0.5, -2.0]])})
      >>> trainable = trainable._replace(thresholds={"kernel": jnp.array([1.0, 3.0])})
      >>> tx = parametrizations.dst_resets(optax.sgd(0.0))
      >>> updates, _ = tx.update(trainable, tx.init(trainable), trainable)
      >>> optax.apply_updates(trainable, updates).thresholds["kernel"]
      Array([0., 0.], dtype=float32)

    References:
      Liu, Xu, Shi, Cheung, So, Dynamic Sparse Training, ICLR 2020, and its code.
    """
    reset_at = _units.check_fraction_kept(reset_at)
    units = _units.Units(axis, layout)
    tx = with_extra_args(inner)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        if params is None:
            raise ValueError(
                "dst_resets needs the parameters, got params=None. Call "
                "tx.update(grads, opt_state, params)."
            )
        if not isinstance(params, DstTrainable):
            raise TypeError(
                "dst_resets wraps the optimizer of what dst trains, a DstTrainable; got "
                f"{type(params).__name__}. Pass the trainable that dst(...).init returns."
            )
        updates, state = tx.update(updates, state, params, **extra_args)
        now: Any = optax.apply_updates(params, updates)
        weights, thresholds = now
        leaves = _leaves.described(weights, thresholds, stacked)

        def reset(w: Any, leaf: Any, t: Any, before: Any, step: Any) -> jax.Array:
            return jnp.where(units.are_due(w, leaf, t, reset_at), -before, step)

        moved = _leaves.map_prunable(
            reset, weights, leaves, thresholds, params.thresholds, updates.thresholds
        )
        return updates._replace(thresholds=moved), state

    return optax.GradientTransformationExtraArgs(tx.init, update)
