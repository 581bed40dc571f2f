"""The training step by `jax.pmap`, for loops that keep replicated state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprune._tree import PyTree
from jaxprune.training.steps._sharding import check_batch
from jaxprune.training.steps._state import (
    MakeOptimizer,
    TrainState,
    check_make_optimizer,
    init_optimizer,
    set_mask,
)
from jaxprune.training.steps._step import TrainStep, check_accumulate
from jaxprune.training.steps._update import LossFn, Policy, make_update

AXIS = "batch"


def make_pmap_train_step(
    loss_fn: LossFn,
    make_optimizer: MakeOptimizer,
    *,
    devices: Sequence[Any] | None = None,
    compute_dtype: Any = None,
    accumulate: int = 1,
    remat: bool | Policy = False,
) -> TrainStep:
    """Builds the twin of `make_train_step` that is compiled by `jax.pmap`.

    For loops that keep replicated state: every array of it has the devices as leading axis.
    ``step.place(state)`` makes such a state, once, and ``step.gather(state)`` goes back to one that
    can be pruned and evaluated; `make_loop`, `imp` and `bimp` do both themselves.

    The program is one a device, each with its own rows of the batch. Gradients, loss, metrics and
    model state are averaged over the axis "batch"; a batch norm sees the whole batch only if the
    model is built with that axis name. Random keys differ from device to device.

    Args:
      loss_fn: as for `make_train_step`.
      make_optimizer: as for `make_train_step`.
      devices: the devices, of this process; all of its own if omitted.
      compute_dtype: as for `make_train_step`.
      accumulate: as for `make_train_step`, of the rows of each device.
      remat: as for `make_train_step`.

    Returns:
      ``step(state, batch, learning_rate) -> (state, metrics)``: ``state`` replicated or not, the
      one returned replicated; ``batch`` whole, with the examples in front; metrics are scalars.

    Raises:
      TypeError: as `make_train_step`.
      ValueError: as `make_train_step`; and with several processes, for which `make_train_step` is.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     return jnp.mean((batch @ params["w"]) ** 2), (model_state, {})
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> step = jp.training.make_pmap_train_step(loss_fn, sgd, devices=jax.devices()[:1])
      >>> state = jp.training.TrainState.create(
      ...     {"w": jnp.ones((2, 2))}, sgd, key=jax.random.key(0)
      ... )
      >>> state = step.place(state)
      >>> state, metrics = step(state, jnp.ones((4, 2)), 0.1)
      >>> state.params["w"].shape, step.gather(state).params["w"].shape
      ((1, 2, 2), (2, 2))
    """
    check_make_optimizer(make_optimizer)
    check_accumulate(accumulate)
    if jax.process_count() > 1:
        raise ValueError(
            f"make_pmap_train_step serves one process, but there are {jax.process_count()}. Use "
            "make_train_step with a mesh of all devices."
        )
    local = list(jax.local_devices() if devices is None else devices)
    update = make_update(
        loss_fn,
        make_optimizer,
        compute_dtype=compute_dtype,
        accumulate=accumulate,
        remat=remat,
        mean=partial(jax.tree.map, _mean),
        local_key=lambda key: jax.random.fold_in(key, jax.lax.axis_index(AXIS)),
    )
    # Metrics are the same on all devices by then: one of them is enough.
    compiled = jax.pmap(
        update,
        axis_name=AXIS,
        in_axes=(0, 0, None),
        out_axes=(0, None),
        devices=local,
        donate_argnums=0,
    )

    def place(state: TrainState) -> TrainState:
        if np.ndim(state.step):
            return state
        return jax.tree.map(lambda x: _replicate(x, local), state)

    def gather(state: TrainState) -> TrainState:
        if not np.ndim(state.step):
            return state
        return jax.tree.map(lambda x: jnp.squeeze(x.addressable_shards[0].data, 0), state)

    def place_batch(batch: PyTree) -> PyTree:
        check_batch(batch, len(local), accumulate)

        def cut(x: Any) -> Any:
            if not np.ndim(x):
                return np.broadcast_to(x, (len(local),))
            return x.reshape(len(local), x.shape[0] // len(local), *x.shape[1:])

        return jax.device_put(jax.tree.map(cut, batch), _one_each(local))

    return TrainStep(
        compiled=compiled,
        init_optimizer=partial(init_optimizer, make_optimizer),
        set_mask=partial(set_mask, make_optimizer),
        place=place,
        gather=gather,
        place_batch=place_batch,
        mesh=None,
        traceable=False,
        loss_fn=loss_fn,
    )


def _replicate(x: jax.Array, devices: Sequence[Any]) -> jax.Array:
    copies = [jax.device_put(x[None], device) for device in devices]
    shape = (len(devices), *x.shape)
    return jax.make_array_from_single_device_arrays(shape, _one_each(devices), copies)


def _one_each(devices: Sequence[Any]) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))


def _mean(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jax.lax.pmean(x, AXIS)
    return x  # counters: the same on every device
