"""An average of the parameters that is as sparse as they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import _tree
from jaxprune._checks import check_number
from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _wrap


class AveragedState(NamedTuple):
    """State of `averaged`.

    Attributes:
      inner_state: the state of the wrapped optimizer.
      average: the running sum of weights, a tree like params, float32 at least; `get_average`
        corrects it for its start.
      step: int32 scalar, steps taken.
      decay: float32 scalar.
    """

    inner_state: optax.OptState
    average: PyTree
    step: jax.Array
    decay: jax.Array


def averaged(inner: Any, decay: float = 0.999) -> optax.GradientTransformationExtraArgs:
    r"""Wraps an optimizer and keeps an exponential moving average (EMA) of the parameters.

    $$a_t = \beta\, a_{t-1} + (1 - \beta)\, w_t, \qquad \bar w_t = a_t / (1 - \beta^t).$$

    An average of a network that is being pruned is not sparse: a weight that went to zero stays in
    it for long. Here the average of a weight that the mask inside ``inner`` prunes is zero from the
    step on at which it went; one that returns is averaged from zero. Without a mask inside it is a
    plain average.

    For an average or a target network of your own (`optax.incremental_update`,
    `optax.periodic_update`) the same is ``jp.apply_mask(average, get_mask(opt_state))`` after each
    update of it.

    Position: outermost, around the transform that prunes.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      decay: beta in [0, 1).

    Returns:
      The transformation. Its state is an `AveragedState`, its ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer, or ``decay`` no number.
      ValueError: if ``decay`` lies outside [0, 1). From ``update``: if ``params`` is missing.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0]])}
      >>> mask = {"kernel": jnp.array([[True, False]])}
      >>> tx = transforms.averaged(transforms.fixed_mask(optax.sgd(1.0), mask), decay=0.5)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update({"kernel": jnp.ones((1, 2))}, state, params)
      ...     params = optax.apply_updates(params, updates)  # 0, then -1
      >>> transforms.get_average(state)["kernel"].round(4)
      Array([[-0.6667,  0.    ]], dtype=float32)
    """
    decay = check_number("decay", decay, low=0.0)
    if decay >= 1:
        raise ValueError(f"decay is {decay}, but an average with memory has it in [0, 1).")
    tx = _wrap.as_transformation(inner, name="averaged")

    def init(params: PyTree) -> AveragedState:
        return AveragedState(
            tx.init(params),
            jax.tree.map(_start, params),
            jnp.zeros((), jnp.int32),
            jnp.asarray(decay, jnp.float32),
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, AveragedState]:
        _wrap.check_params(params, updates, name="averaged")
        assert params is not None
        updates, inner_state = tx.update(updates, state.inner_state, params, **extra_args)

        def mean(a: Any, w: Any) -> Any:
            if _tree.is_absent(a) or not jnp.issubdtype(a.dtype, jnp.inexact):
                return w
            share = jnp.asarray(1 - state.decay, a.dtype)
            return a + share * (w.astype(a.dtype) - a)

        now = optax.apply_updates(params, updates)
        average = jax.tree.map(mean, state.average, now, is_leaf=_tree.is_absent)
        if _mask_state.has_mask(inner_state):
            held = _mask_state.get_mask(inner_state, copy=False)
            mask = _mask_state.align(held, _wrap.network_of(params))
            average = _wrap.masked(mask, average)
        count = jnp.asarray(optax.safe_increment(state.step))
        return updates, AveragedState(inner_state, average, count, state.decay)

    return optax.GradientTransformationExtraArgs(init, update)


def _start(p: Any) -> jax.Array:
    # In bfloat16 the steps of an average would be rounded away.
    return jnp.zeros_like(p, _tree.wide_dtype(p.dtype) if _tree.is_floating(p) else None)


def get_average(opt_state: PyTree) -> PyTree:
    """Returns the average that `averaged` keeps, corrected for its start at zero.

    Position: none; it reads the state of any optimizer with `averaged` inside.

    Args:
      opt_state: any optimizer state.

    Returns:
      A tree like params, float32 at least: zero where a weight is pruned. All of it is zero before
      the first step.

    Raises:
      ValueError: if there is no average in the state, or more than one.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> state = transforms.averaged(optax.sgd(0.1)).init({"w": jnp.ones(2)})
      >>> transforms.get_average(state)["w"]
      Array([0., 0.], dtype=float32)
    """

    def is_average(x: Any) -> bool:
        return isinstance(x, AveragedState)

    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(x)]
    if len(found) != 1:
        raise ValueError(
            f"there are {len(found)} averages in this optimizer state, and one is asked for. Wrap "
            "the optimizer once: jaxprune.transforms.averaged(optimizer, decay)."
        )
    (state,) = found
    # expm1 and log1p: 1 - decay**t would lose digits where decay is near 1.
    fraction = -jnp.expm1(state.step.astype(jnp.float32) * jnp.log1p(state.decay - 1))
    scale = jnp.where(state.step > 0, 1 / jnp.where(state.step > 0, fraction, 1.0), 0.0)

    def corrected(a: Any) -> Any:
        return a * scale.astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    return jax.tree.map(corrected, state.average)
