"""What one training step computes: gradients, masked optimizer, new state. Not yet compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxprune import _tree, transforms
from jaxprune._tree import PyTree
from jaxprune.training.steps._contracts import split_loss
from jaxprune.training.steps._state import (
    MakeOptimizer,
    MethodState,
    TrainState,
    check_opt_state,
    optimizer_of,
)

LossFn: TypeAlias = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, Any]]
Metrics: TypeAlias = dict[str, jax.Array]
Policy: TypeAlias = Callable[..., Any]


def make_update(
    loss_fn: LossFn,
    make_optimizer: MakeOptimizer,
    *,
    compute_dtype: Any,
    accumulate: int,
    remat: bool | Policy,
    mean: Callable[[PyTree], PyTree] | None = None,
    local_key: Callable[[jax.Array], jax.Array] | None = None,
) -> Callable[[TrainState, PyTree, jax.Array], tuple[TrainState, Metrics]]:
    """Builds ``update(state, batch, learning_rate) -> (state, metrics)``; see `make_train_step`.

    Args:
      loss_fn: the loss.
      make_optimizer: function from a learning rate to an optimizer.
      compute_dtype: floating type of the computation, or `None`.
      accumulate: parts of the batch that are computed one after the other.
      remat: whether, or by which policy, the forward pass is recomputed.
      mean: averages a tree over devices; nothing if the program is one for all of them.
      local_key: makes the key of a device from that of the step.

    Returns:
      The function.
    """
    loss_fn = _checked(_in(compute_dtype, loss_fn), averaged=accumulate > 1 or mean is not None)
    gradients = jax.value_and_grad(recomputed(loss_fn, remat), has_aux=True)
    if accumulate > 1:
        gradients = _accumulated(gradients, accumulate)

    def update(
        state: TrainState, batch: PyTree, learning_rate: jax.Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        key = key if local_key is None else local_key(key)
        (loss, aux), grads = gradients(state.params, state.model_state, batch, key)
        model_state, metrics = aux
        if mean is not None:
            grads, loss, model_state, metrics = mean((grads, loss, model_state, metrics))
        optimizer = optimizer_of(make_optimizer, state.opt_state)
        check_opt_state(make_optimizer, state)
        opt_state = transforms.set_learning_rate(state.opt_state, learning_rate)
        # Some optimizers (momo, reduce_on_plateau) ask for the loss; the others do not see it.
        updates, opt_state = optimizer.update(grads, opt_state, state.params, value=loss)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            model_state=model_state,
            key=state.key,
        )
        return state, {"loss": loss, **metrics}

    return update


def recomputed(loss_fn: LossFn, remat: bool | Policy) -> LossFn:
    """The loss with a backward pass that recomputes what the policy does not keep."""
    if not remat:
        return loss_fn
    # Products and convolutions are kept, what lies between is cheap to compute again. To keep
    # nothing at all would save nothing: the backward pass would first redo the whole forward.
    policy = jax.checkpoint_policies.dots_saveable if remat is True else remat
    return jax.checkpoint(loss_fn, policy=policy)


def _checked(loss_fn: LossFn, *, averaged: bool) -> LossFn:
    def checked(params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array) -> Any:
        returned = loss_fn(params, model_state, batch, key)
        loss, model_state, metrics = split_loss(returned, model_state)
        for name, value in metrics.items() if averaged else ():
            if not _tree.is_floating(value):
                raise TypeError(
                    f"the metric {name!r} is {jnp.result_type(value)}, but parts of a batch are "
                    "averaged here, which counts are not; return the mean as a float."
                )
        return loss, (model_state, metrics)

    return checked


def _in(dtype: Any, loss_fn: LossFn) -> LossFn:
    """The loss computed in ``dtype``; parameters, model state, loss and metrics keep theirs."""
    if dtype is None:
        return loss_fn

    def cast(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(dtype) if _tree.is_floating(x) else x, tree)

    def wide(x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) if _tree.is_floating(x) and x.dtype.itemsize < 4 else x

    def computed(params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array) -> Any:
        returned = loss_fn(cast(params), model_state, cast(batch), key)
        with contextlib.suppress(TypeError, ValueError):  # else the check that follows tells
            loss, (after, metrics) = returned
            narrow = jax.tree.map(lambda x: x.dtype == dtype, after)
            after = jax.tree.map(
                lambda n, new, old: new.astype(old.dtype) if n else new, narrow, after, model_state
            )
            returned = loss, (after, metrics)
        loss, after, metrics = split_loss(returned, model_state)
        return wide(loss), (after, jax.tree.map(wide, metrics))

    return computed


def _accumulated(gradients: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """The same gradients from one part of the batch after the other.

    Part i has the examples i, i + parts, i + 2 parts, ...: of a batch that is split over devices
    every device then has an equal share of every part, and no example moves.
    """

    def split(x: jax.Array) -> jax.Array:
        if not x.ndim:
            return jnp.broadcast_to(x, (parts,))
        return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

    def accumulated(params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array) -> Any:
        first = model_state

        def one(carry: Any, part: Any) -> Any:
            model_state, total = carry
            number, batch = part
            if isinstance(model_state, MethodState):  # it counts steps, not parts of one
                model_state = model_state._replace(parametrization=first.parametrization)
            (loss, (model_state, metrics)), grads = gradients(
                params, model_state, batch, jax.random.fold_in(key, number)
            )
            return (model_state, jax.tree.map(jnp.add, total, grads)), (loss, metrics)

        zeros = jax.tree.map(jnp.zeros_like, params)
        sequence = (jnp.arange(parts), jax.tree.map(split, batch))
        (model_state, total), (losses, metrics) = jax.lax.scan(one, (model_state, zeros), sequence)
        grads = jax.tree.map(lambda g: g / jnp.asarray(parts, g.dtype), total)
        metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0).astype(m.dtype), metrics)
        return (jnp.mean(losses), (model_state, metrics)), grads

    return accumulated
