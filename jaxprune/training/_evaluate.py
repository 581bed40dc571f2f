"""Evaluation that counts every example once, the last partial batch included."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.training._state import TrainState

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
    on the host.

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
    size = min(batch_size, n)
    batches = math.ceil(n / size)
    weighted = {"weight": jnp.ones((n,), jnp.float32), **data}
    padded = jax.tree.map(
        lambda x: jnp.pad(x, [(0, batches * size - n)] + [(0, 0)] * (np.ndim(x) - 1)), weighted
    )

    @jax.jit
    def one(params: PyTree, model_state: PyTree, padded: PyTree, i: jax.Array) -> Any:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), padded)
        return eval_fn(params, model_state, batch)

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if eval_params is None else eval_params(state)
        rows = [one(params, state.model_state, padded, jnp.int32(i)) for i in range(batches)]
        totals: dict[str, np.ndarray] = {}
        for row in jax.device_get(rows):
            for name, pair in row.items():
                totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
        return {name: float(total / count) for name, (total, count) in totals.items()}

    return evaluate


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

    def one(
        params: PyTree, model_state: PyTree, batch_fn: Any, key: jax.Array, i: jax.Array
    ) -> PyTree:
        _, (model_state, _) = loss_fn(params, model_state, batch_fn(i), jax.random.fold_in(key, i))
        return model_state

    compiled = jax.jit(one, static_argnums=() if is_tree else 2)

    def recalibrate(state: TrainState) -> TrainState:
        if not _tree.size(state.model_state):
            return state  # nothing to re-estimate
        model_state = state.model_state
        for i in range(steps):
            model_state = compiled(state.params, model_state, batch_at, state.key, jnp.int32(i))
        return state._replace(model_state=model_state)

    return recalibrate
