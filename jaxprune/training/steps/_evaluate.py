"""Evaluation that counts every example once, the last partial batch included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.training.steps._contracts import (
    check_calls,
    check_evaluation,
    check_order,
    check_padding,
    split_loss,
)
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
      ValueError: if the set is empty, its arrays differ in length, or ``batch_size`` is below 1; at
        the first call, if ``eval_fn`` counts examples of weight 0, or returns (count, sum).
      TypeError: at the first call, if ``eval_fn`` does not return a dict of pairs of scalars.

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
    one = _checked(eval_fn)
    unchecked = [True]

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if eval_params is None else eval_params(state)
        batches = batches_for(state.params)
        if unchecked:
            _check_values(one, params, state.model_state, batches[0])
            unchecked.clear()
        return _means([settle(one(params, state.model_state, batch)) for batch in batches])

    def names(state: TrainState) -> list[str]:
        """The metrics, from one abstract trace."""
        params = state.params if eval_params is None else jax.eval_shape(eval_params, state)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype),
            jax.tree.map(np.asarray, weighted),
        )
        return list(jax.eval_shape(one, params, state.model_state, batch))

    return _Evaluation(evaluate, names)


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
      TypeError: at the first call, if ``eval_fn`` does not return a dict of pairs of scalars.
    """
    one = _checked(eval_fn)
    over = None if mesh is None else automatic(mesh)

    def names(state: TrainState) -> list[str]:
        params = state.params if eval_params is None else jax.eval_shape(eval_params, state)
        first = next(iter(batches()))
        return list(jax.eval_shape(one, params, state.model_state, first))

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if eval_params is None else eval_params(state)
        rows = []
        for batch in batches():
            batch = batch if over is None else put_rows(batch, over)
            rows.append(settle(one(params, state.model_state, batch)))
        return _means(rows)

    return _Evaluation(evaluate, names)


def is_abstract(evaluate: Any) -> bool:
    """Whether the metrics of an evaluation can be told from shapes."""
    return isinstance(evaluate, _Evaluation)


def metric_names(evaluate: Any, state: TrainState) -> list[str]:
    """The metrics of an evaluation: from one abstract trace of ours, else by calling it once.

    Raises:
      TypeError: if it is no function of the state, or does not return numbers by name.
    """
    check_calls("evaluate", evaluate, ["state"])
    if isinstance(evaluate, _Evaluation):
        return evaluate.names(state)
    values = evaluate(state)
    numbers = isinstance(values, dict) and all(
        isinstance(name, str) and np.ndim(x) == 0 and np.issubdtype(np.asarray(x).dtype, np.number)
        for name, x in values.items()
    )
    if not numbers:
        raise TypeError(
            "evaluate(state) returns a dict from names to numbers; got "
            f"{values!r:.80} of type {type(values).__name__}. See make_evaluate."
        )
    return list(values)


class _Evaluation:
    """``evaluate(state)``, and what it returns without computing it."""

    def __init__(
        self,
        evaluate: Callable[[TrainState], dict[str, float]],
        names: Callable[[TrainState], list[str]],
    ):
        self._evaluate, self.names = evaluate, names

    def __call__(self, state: TrainState) -> dict[str, float]:
        return self._evaluate(state)


@lru_cache(maxsize=16)  # evaluations of one function share a program, over whatever sets
def _checked(eval_fn: EvalFn) -> Callable[..., dict[str, tuple[jax.Array, jax.Array]]]:
    def checked(params: PyTree, model_state: PyTree, batch: PyTree) -> Any:
        returned = eval_fn(params, model_state, batch)
        check_evaluation(returned)
        return returned

    return jax.jit(checked)


def _check_values(one: Callable[..., Any], params: PyTree, model_state: PyTree, batch: Any) -> None:
    """Checks an evaluation function by its values on a batch; it is compiled for that anyway."""
    if jax.process_count() > 1:
        return  # a process alone cannot make arrays that others hold parts of
    padding = {**batch, "weight": _zeros_like(batch["weight"])}
    check_padding(_on_host(one(params, model_state, padding)))
    zeros = jax.tree.map(_zeros_like, params)
    check_order(*(_on_host(one(p, model_state, batch)) for p in (params, zeros)))


def _zeros_like(x: Any) -> Any:
    where = x.sharding if isinstance(x, jax.Array) and x.committed else None
    return jax.device_put(np.zeros(x.shape, x.dtype), where)


def _on_host(pairs: dict[str, tuple[jax.Array, jax.Array]]) -> dict[str, Any]:
    return jax.device_get(settle(pairs))


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
        returned = loss_fn(params, model_state, batch, jax.random.fold_in(key, i))
        return split_loss(returned, model_state)[1]

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
