"""One compiled training step; learning rate and mask enter as data."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprune import transforms
from jaxprune._tree import PyTree
from jaxprune.training._state import (
    MakeOptimizer,
    TrainState,
    check_make_optimizer,
    init_optimizer,
    optimizer_of,
    set_mask,
)

LossFn: TypeAlias = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, Any]]


class TrainStep(NamedTuple):
    """A compiled training step and the way to a fresh optimizer state.

    Attributes:
      compiled: the jitted function ``(state, batch, learning_rate) -> (state, metrics)``.
      init_optimizer: ``init_optimizer(params, mask)`` gives a fresh optimizer state.
      set_mask: ``set_mask(opt_state, mask)`` gives one with another mask, pruned moments cleared.
      place: puts a state on the devices of the step, so that every call compiles to the same.
    """

    compiled: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    init_optimizer: Callable[[PyTree, PyTree], PyTree]
    set_mask: Callable[[PyTree, PyTree], PyTree]
    place: Callable[[TrainState], TrainState]

    def __call__(
        self, state: TrainState, batch: PyTree, learning_rate: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Trains on one batch. ``state`` is donated: use the one returned."""
        rate = jnp.asarray(learning_rate, jnp.float32)
        return self.compiled(self.place(state), batch, rate)


def make_train_step(
    loss_fn: LossFn, make_optimizer: MakeOptimizer, *, mesh: Mesh | None = None
) -> TrainStep:
    """Builds the training step of a run: gradient, masked optimizer, update.

    The learning rate is an argument and the mask lives in the state, so one compilation serves
    every cycle, schedule and seed. The incoming state is donated.

    Args:
      loss_fn: ``loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))``, the
        loss a mean over the batch, the metrics a dict of scalars.
      make_optimizer: function from a learning rate to an optax optimizer, without a schedule.
      mesh: devices to train on, data-parallel: the batch's leading axis is split over all axes of
        the mesh, the state is replicated. One device if omitted.

    Returns:
      ``step(state, batch, learning_rate) -> (state, metrics)``; "loss" is added to the metrics.

    Raises:
      TypeError: if ``make_optimizer`` is a ready optimizer; at the first call, if the metrics are
        not a dict.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     return jnp.mean((batch @ params["w"]) ** 2), (model_state, {})
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> params = {"w": jnp.ones((2, 2))}
      >>> mask = {"w": jnp.array([[True, False], [True, True]])}
      >>> state = jp.training.TrainState.create(params, sgd, mask=mask, key=jax.random.key(0))
      >>> step = jp.training.make_train_step(loss_fn, sgd)
      >>> state, metrics = step(state, jnp.ones((4, 2)), 0.1)
      >>> float(state.params["w"][0, 1]), int(state.step)
      (0.0, 1)
    """
    check_make_optimizer(make_optimizer)
    replicated = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def place(state: TrainState) -> TrainState:
        return state if replicated is None else jax.device_put(state, replicated)

    @partial(jax.jit, donate_argnums=0)
    def train_step(
        state: TrainState, batch: PyTree, learning_rate: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        if mesh is not None:
            split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            batch = jax.lax.with_sharding_constraint(batch, split)
        key = jax.random.fold_in(state.key, state.step)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, aux), grads = grad_fn(state.params, state.model_state, batch, key)
        model_state, metrics = aux
        if not isinstance(metrics, dict):
            raise TypeError(
                "loss_fn returns (loss, (model_state, metrics)) with metrics a dict of scalars; "
                f"got {type(metrics).__name__}."
            )
        optimizer = optimizer_of(make_optimizer, state.opt_state)
        opt_state = transforms.set_learning_rate(state.opt_state, learning_rate)
        updates, opt_state = optimizer.update(grads, opt_state, state.params)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            model_state=model_state,
            key=state.key,
        )
        if replicated is not None:
            # Out as it came in, or the next call would compile for another layout.
            state = jax.lax.with_sharding_constraint(state, replicated)
        return state, {"loss": loss, **metrics}

    return TrainStep(
        compiled=train_step,
        init_optimizer=partial(init_optimizer, make_optimizer),
        set_mask=partial(set_mask, make_optimizer),
        place=place,
    )
