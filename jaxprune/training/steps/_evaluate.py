"""Evaluation that counts every example once, the last partial batch included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.training.steps._sharding import (
    automatic,
    batch_sharding,
    device_of,
    everywhere,
    mesh_of,
    put,
    put_rows,
    settle,
    spread,
)
from jaxprune.training.steps._state import TrainState

EvalFn: TypeAlias = Callable[[PyTree, PyTree, PyTree], dict[str, tuple[jax.Array, jax.Array]]]
Evaluate: TypeAlias = Callable[[TrainState], dict[str, float]]


def make_evaluate(
    eval_fn: EvalFn,
    data: dict[str, Any],
    *,
    batch_size: int,
    eval_params: Callable[[TrainState], PyTree] | None = None,
) -> Evaluate:
    """Builds ``evaluate(state) -> {name: mean}`` over a whole set.

    The set is cut into equal batches; the last one is filled up with zeros of weight 0, so that
    one compilation serves all and no example is lost or counted twice. Sums are added in float64
    on the host. The set is put where the parameters lie: on their device, or all over their mesh.

    Args:
      eval_fn: ``eval_fn(params, model_state, batch) -> {name: (sum, count)}``; it must weight each
        example by ``batch["weight"]``, which is 0 for padding.
      data: arrays ``[examples, ...]`` by name.
      batch_size: examples a batch.
      eval_params: which parameters to evaluate; ``state.params`` if omitted. For
        `optax.contrib.schedule_free` pass a function that makes its evaluation parameters.

    Returns:
      The function. Its values are means: sum over count.

    Raises:
      ValueError: if the set is empty, its arrays differ in length, or ``batch_size`` is below 1.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def eval_fn(params, model_state, batch):
      ...     weight = batch["weight"]
      ...     return {"mean": (jnp.sum(weight * batch["x"]), jnp.sum(weight))}
      >>> evaluate = jp.training.make_evaluate(eval_fn, {"x": jnp.arange(5.0)}, batch_size=2)
      >>> state = jp.training.TrainState.create(
      ...     {"w": jnp.ones((2, 2))}, lambda lr: optax.sgd(lr), key=jax.random.key(0)
      ... )
      >>> evaluate(state)
      {'mean': 2.0}
    """
    lengths = {name: np.shape(x)[0] for name, x in data.items()}
    n = next(iter(lengths.values()), 0)
    if n == 0 or set(lengths.values()) != {n}:
        raise ValueError(f"data are non-empty arrays of one length; got lengths {lengths}.")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1 example; got {batch_size}.")
    weighted = {"weight": np.ones((n,), np.float32), **data}
    placed: dict[Any, list[PyTree]] = {}

    def cut(size: int, first: int, x: Any) -> np.ndarray:
        """The batch that begins at an index, padded with zeros."""
        x = np.asarray(x)[first : first + size]
        return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))

    def batches_for(params: PyTree) -> list[PyTree]:
        mesh = mesh_of(params)
        where = device_of(params) if mesh is None else mesh
        if where not in placed:
            devices = 1 if mesh is None else mesh.size
            size = math.ceil(min(batch_size, n) / devices) * devices
            host = [jax.tree.map(partial(cut, size, i), weighted) for i in range(0, n, size)]
            if mesh is None:
                placed[where] = jax.device_put(host, where)
            else:
                placed[where] = put(host, batch_sharding(mesh))
        return placed[where]

    # Batch by batch, so that sets of different lengths share one program.
    one = jax.jit(eval_fn)

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if eval_params is None else eval_params(state)
        batches = batches_for(state.params)
        return _means([settle(one(params, state.model_state, batch)) for batch in batches])

    return evaluate


def make_stream_evaluate(
    eval_fn: EvalFn,
    batches: Callable[[], Iterable[PyTree]],
    *,
    mesh: Mesh | None = None,
    eval_params: Callable[[TrainState], PyTree] | None = None,
) -> Evaluate:
    """Builds ``evaluate(state) -> {name: mean}`` over batches that the host brings one by one.

    Args:
      eval_fn: as for `make_evaluate`.
      batches: ``batches()`` goes through the set once, in batches of one size with a "weight" that
        is 0 for padding. With several processes each brings its own rows of every batch.
      mesh: the devices that the rows are spread over; one device if omitted.
      eval_params: as for `make_evaluate`.

    Returns:
      The function.

    Raises:
      ValueError: if the devices do not divide a batch.
    """
    one = jax.jit(eval_fn)
    over = None if mesh is None else automatic(mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if eval_params is None else eval_params(state)
        rows = []
        for batch in batches():
            batch = batch if over is None else put_rows(batch, over)
            rows.append(settle(one(params, state.model_state, batch)))
        return _means(rows)

    return evaluate


def _means(rows: list[dict[str, tuple[jax.Array, jax.Array]]]) -> dict[str, float]:
    totals: dict[str, np.ndarray] = {}
    for row in jax.device_get(rows):
        for name, pair in row.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    return {name: float(total / count) for name, (total, count) in totals.items()}


def make_recalibrate(
    loss_fn: Callable[..., Any], batch_at: Callable[[jax.Array], PyTree], *, steps: int
) -> Callable[[TrainState], TrainState]:
    """Builds ``recalibrate(state) -> state``, which re-estimates batch statistics.

    Runs the loss in training mode over ``steps`` batches and keeps only the new model state;
    parameters, optimizer and step do not change. Pruning shifts activations, so the running
    statistics of batch normalisation are wrong right after it; the reference code of Zimmer et
    al. recalibrates them implicitly before it measures accuracy after pruning.

    Args:
      loss_fn: the training loss, see `make_train_step`.
      batch_at: pure function from the step number to a batch; called with 0 ... steps - 1.
      steps: batches to run over; one pass of the training data is usual.

    Returns:
      The function.

    Raises:
      ValueError: if ``steps`` is below 1.

    References:
      Li et al., EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning, 2020.
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1; got {steps}.")
    is_tree = isinstance(batch_at, jax.tree_util.Partial)
    placed: dict[Any, Any] = {}

    def one(
        mesh: Mesh | None,
        params: PyTree,
        model_state: PyTree,
        batch_fn: Any,
        key: jax.Array,
        i: jax.Array,
    ) -> PyTree:
        batch = batch_fn(i) if mesh is None else spread(batch_fn(i), mesh)
        _, (model_state, _) = loss_fn(params, model_state, batch, jax.random.fold_in(key, i))
        return model_state

    compiled = jax.jit(one, static_argnums=(0,) if is_tree else (0, 3))

    def batches_for(mesh: Mesh | None) -> Any:
        if mesh is None or not is_tree:
            return batch_at
        if mesh not in placed:
            placed[mesh] = put(batch_at, everywhere(mesh))
        return placed[mesh]

    def recalibrate(state: TrainState) -> TrainState:
        if not _tree.size(state.model_state):
            return state  # nothing to re-estimate
        model_state = state.model_state
        mesh = mesh_of(state.params)
        batches = batches_for(mesh)
        for i in range(steps):
            model_state = settle(
                compiled(mesh, state.params, model_state, batches, state.key, np.int32(i))
            )
        return state._replace(model_state=model_state)

    return recalibrate
