"""One compiled training step; learning rate and mask enter as data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxprune._tree import PyTree
from jaxprune.training.steps._sharding import (
    Rule,
    automatic,
    check_batch,
    everywhere,
    put,
    put_rows,
    replicated,
    settle,
    shardings,
    spread,
)
from jaxprune.training.steps._state import (
    MakeOptimizer,
    TrainState,
    check_make_optimizer,
    init_optimizer,
    set_mask,
)
from jaxprune.training.steps._update import LossFn, Policy, make_update


class TrainStep(NamedTuple):
    """A compiled training step, and how its states and batches lie on its devices.

    Attributes:
      compiled: the compiled function ``(state, batch, learning_rate) -> (state, metrics)``; state
        and batch lie as `place` and `place_batch` put them.
      init_optimizer: ``init_optimizer(params, mask)`` gives a fresh optimizer state.
      set_mask: ``set_mask(opt_state, mask)`` gives one with another mask, pruned moments cleared.
      place: puts a state on the devices of the step, so that every call compiles to the same.
      gather: the way back, to a state that can be pruned and evaluated. Nothing to do, but for
        `make_pmap_train_step`.
      place_batch: puts a batch of the host on the devices. With several processes each passes its
        own rows.
      mesh: the devices; `None` for one, and for `make_pmap_train_step`.
      traceable: whether ``compiled`` can be part of a larger compiled function.
      loss_fn: the loss that it was made from.
    """

    compiled: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    init_optimizer: Callable[[PyTree, PyTree], PyTree]
    set_mask: Callable[[PyTree, PyTree], PyTree]
    place: Callable[[TrainState], TrainState]
    gather: Callable[[TrainState], TrainState]
    place_batch: Callable[[PyTree], PyTree]
    mesh: Mesh | None
    traceable: bool
    loss_fn: LossFn | None = None

    def __call__(
        self, state: TrainState, batch: PyTree, learning_rate: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Trains on one batch. ``state`` is donated: use the one returned."""
        rate = jnp.asarray(learning_rate, jnp.float32)
        state, metrics = self.compiled(self.place(state), self.place_batch(batch), rate)
        return state, settle(metrics)


def make_train_step(
    loss_fn: LossFn,
    make_optimizer: MakeOptimizer,
    *,
    mesh: Mesh | None = None,
    sharding: Rule | None = None,
    compute_dtype: Any = None,
    accumulate: int = 1,
    remat: bool | Policy = False,
) -> TrainStep:
    """Builds the training step of a run: gradient, masked optimizer, update.

    The learning rate is an argument and the mask lives in the state, so one compilation serves
    every cycle, schedule and seed. The incoming state is donated.

    Args:
      loss_fn: ``loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))``, the
        loss a mean over the batch, the metrics a dict of scalars.
      make_optimizer: function from a learning rate to an optax optimizer, without a schedule.
      mesh: devices to train on: the batch's leading axis is split over all axes of the mesh. The
        program is one for all devices, so means and batch norms are those of the whole batch. One
        device if omitted.
      sharding: where parameters lie on the mesh, with their moments and masks: `replicated()`, the
        default, `fully_sharded(mesh)`, or a function ``(path, leaf) -> PartitionSpec``.
      compute_dtype: floating type to compute in, e.g. ``jnp.bfloat16``: parameters and batch are
        cast to it for the loss, while the parameters that are kept and updated stay as they are.
        As they are if omitted.
      accumulate: parts that the batch is cut into and computed one after the other; their
        gradients are averaged, for batches that do not fit. A batch norm sees one part at a time.
      remat: whether the backward pass computes anew, instead of keeping, all but products and
        convolutions; or one of ``jax.checkpoint_policies``. Without effect on a CPU, whose compiler
        computes nothing twice.

    Returns:
      ``step(state, batch, learning_rate) -> (state, metrics)``; "loss" is added to the metrics.

    Raises:
      TypeError: if ``make_optimizer`` is a ready optimizer, or ``mesh`` no mesh; at the first
        call, if the metrics are not a dict.
      ValueError: if ``accumulate`` is below 1, or ``sharding`` is given without a mesh; at the
        first call, if devices and parts do not divide the batch, or a spec does not fit.

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

    References:
      Micikevicius et al., Mixed Precision Training, ICLR 2018 (master weights); Chen et al.,
      Training Deep Nets with Sublinear Memory Cost, 2016 (recomputation).
    """
    check_make_optimizer(make_optimizer)
    check_accumulate(accumulate)
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(
            "mesh is a jax.sharding.Mesh, e.g. Mesh(np.array(jax.devices()), ('data',)); got "
            f"{mesh!r}."
        )
    if sharding is not None and mesh is None:
        raise ValueError("sharding says where parameters lie on a mesh; pass mesh= as well.")
    mesh = None if mesh is None else automatic(mesh)
    rule = replicated() if sharding is None else sharding
    update = make_update(
        loss_fn,
        make_optimizer,
        compute_dtype=compute_dtype,
        accumulate=accumulate,
        remat=remat,
    )

    def place(state: TrainState) -> TrainState:
        if mesh is None:
            return state
        return put(state, shardings(state, state.params, mesh, rule))

    def place_batch(batch: PyTree) -> PyTree:
        return jax.device_put(batch) if mesh is None else put_rows(batch, mesh)

    @partial(jax.jit, donate_argnums=0)
    def train_step(
        state: TrainState, batch: PyTree, learning_rate: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        check_batch(batch, 1 if mesh is None else mesh.size, accumulate)
        if mesh is None:
            return update(state, batch, learning_rate)
        after, metrics = update(state, spread(batch, mesh), learning_rate)
        # Out as it came in, or the next call would compile for another layout. Metrics everywhere:
        # every process reads them.
        where = shardings(state, state.params, mesh, rule)
        return (
            jax.lax.with_sharding_constraint(after, where),
            jax.lax.with_sharding_constraint(metrics, everywhere(mesh)),
        )

    return TrainStep(
        compiled=train_step,
        init_optimizer=partial(init_optimizer, make_optimizer),
        set_mask=partial(set_mask, make_optimizer),
        place=place,
        gather=lambda state: state,
        place_batch=place_batch,
        mesh=mesh,
        traceable=True,
        loss_fn=loss_fn,
    )


def check_accumulate(accumulate: int) -> None:
    """Raises unless ``accumulate`` is a number of parts."""
    if isinstance(accumulate, bool) or not isinstance(accumulate, (int, np.integer)):
        raise TypeError(f"accumulate is a number of parts of a batch; got {accumulate!r}.")
    if accumulate < 1:
        raise ValueError(f"accumulate is at least 1 part of a batch; got {accumulate}.")
