"""Train with any method: one phase, then the final hard prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import _eager, _tree, metrics
from jaxprune._tree import PyTree
from jaxprune.methods import Method
from jaxprune.parametrizations import Parametrization
from jaxprune.training.checkpoints import Checkpoints, PhaseRecord, RunResult
from jaxprune.training.checkpoints._fingerprint import (
    describe_array,
    describe_function,
    describe_model,
    describe_optimizer,
)
from jaxprune.training.drivers._hooks import check_hooks, recalibrated, stability
from jaxprune.training.drivers._run import Run
from jaxprune.training.steps import Evaluate, TrainLoop, TrainState
from jaxprune.training.steps._evaluate import is_abstract
from jaxprune.training.steps._state import MakeOptimizer, MethodState, check_make_optimizer, copy
from jaxprune.training.steps._update import LossFn


class Prepared(NamedTuple):
    """The parts of a run with a method, from `prepare`.

    Attributes:
      method: the method.
      state: the state to start from; its parameters are what is trained.
      loss_fn: the loss as a function of what is trained.
      make_optimizer: the wrapped optimizer.
      plain_optimizer: the one that was wrapped.
      plain_loss_fn: the loss as it was given.
    """

    method: Method
    state: TrainState
    loss_fn: LossFn
    make_optimizer: MakeOptimizer
    plain_optimizer: MakeOptimizer
    plain_loss_fn: LossFn

    def deployed(self, state: TrainState) -> TrainState:
        """The state as the forward pass sees it now: what `evaluate` takes."""
        if self.method.parametrization is None:
            return state
        params, _ = jax.jit(self.method.parametrization.apply)(
            state.params, state.model_state.parametrization
        )
        return state._replace(params=params, model_state=state.model_state.model)

    def finished(self, state: TrainState) -> TrainState:
        """The state after the final hard prune, under a fixed mask and a fresh optimizer."""
        parametrized = self.method.parametrization is not None
        params, mask = self.method.finish(
            state.params,
            state.opt_state,
            state.model_state.parametrization if parametrized else None,
        )
        end = TrainState.create(
            params,
            self.plain_optimizer,
            model_state=state.model_state.model if parametrized else state.model_state,
            mask=mask,
            key=state.key,
        )
        return end._replace(step=state.step)


def _wrapped(method: Method, make_optimizer: MakeOptimizer) -> MakeOptimizer:
    check_make_optimizer(make_optimizer)
    transform = method.transform
    if transform is None:
        return make_optimizer
    return lambda learning_rate: transform(make_optimizer(learning_rate))


def _through(parametrization: Parametrization, loss_fn: LossFn) -> LossFn:
    """The loss as a function of what is trained."""

    def through(trainable: PyTree, state: MethodState, batch: PyTree, key: jax.Array) -> Any:
        params, after = parametrization.apply(trainable, state.parametrization)
        loss, (model, values) = loss_fn(params, state.model, batch, key)
        penalty = parametrization.penalty(trainable, state.parametrization).astype(loss.dtype)
        return loss + penalty, (MethodState(model, after), values)

    return through


def _nonzero(params: PyTree, mask: PyTree) -> int:
    """How many of the prunable weights are not zero."""
    rows = [_eager.Row(w) for _, _, (w,) in _tree.beside(mask, params)]
    return metrics.counts(_eager.together(_is_nonzero, rows))[0]


def _is_nonzero(x: jax.Array) -> jax.Array:
    return x != 0


def prepare(
    method: Method,
    params: PyTree,
    loss_fn: LossFn,
    make_optimizer: MakeOptimizer,
    *,
    model_state: PyTree = None,
    key: jax.Array,
) -> Prepared:
    """Applies a method to a loss and an optimizer.

    Args:
      method: a recipe of `jaxprune.methods`.
      params: the parameters to start from. Copied.
      loss_fn: as for `make_train_step`.
      make_optimizer: function from a learning rate to an optax optimizer.
      model_state: what the model keeps besides parameters. Copied.
      key: a JAX random key.

    Returns:
      The parts: build the training step from ``loss_fn`` and ``make_optimizer``, and train
      ``state``.

    Raises:
      TypeError: as `TrainState.create`.
      ValueError: as `TrainState.create`; and what the method does not accept about the parameters.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     return jnp.mean((batch @ params["w"]) ** 2), (model_state, {})
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> method = jp.methods.gmp(0.5, total_steps=8, interval=2)
      >>> parts = jp.training.prepare(
      ...     method, {"w": jnp.ones((4, 4))}, loss_fn, sgd, key=jax.random.key(0)
      ... )
      >>> step = jp.training.make_train_step(parts.loss_fn, parts.make_optimizer)
      >>> train = jp.training.make_loop(step, lambda t: jnp.ones((2, 4)))
      >>> result = jp.training.fit(
      ...     parts, train, evaluate=lambda state: {}, learning_rates=[0.1] * 8
      ... )
      >>> result.records[-1].sparsity
      0.5
    """
    wrapped = _wrapped(method, make_optimizer)
    parametrization = method.parametrization
    if parametrization is None:
        state = TrainState.create(
            params,
            wrapped,
            model_state=model_state,
            masked=False,
            key=key,
        )
        return Prepared(method, state, loss_fn, wrapped, make_optimizer, loss_fn)
    trainable, first = parametrization.init(params)
    state = TrainState.create(
        trainable, wrapped, model_state=MethodState(model_state, first), masked=False, key=key
    )
    through = _through(parametrization, loss_fn)
    return Prepared(method, state, through, wrapped, make_optimizer, loss_fn)


def fit(
    prepared: Prepared,
    train: TrainLoop,
    *,
    evaluate: Evaluate,
    learning_rates: Any,
    metric: str | None = None,
    recalibrate: Callable[[TrainState], TrainState] | None = None,
    on_phase: Callable[[PhaseRecord], None] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = False,
) -> RunResult:
    """Trains with a method for one phase, then prunes for good, measuring before and after.

    Args:
      prepared: from `prepare`.
      train: a loop over the step made from ``prepared.loss_fn`` and ``prepared.make_optimizer``.
      evaluate: ``evaluate(state) -> {name: value}``, see `make_evaluate`; it is given the weights
        that the forward pass sees.
      learning_rates: float array ``[steps]``.
      metric: the entry of ``evaluate`` that pruning stability is computed from; "accuracy" if
        omitted and there. Where its value is NaN or not positive, stability is `None`.
      recalibrate: from `make_recalibrate`, for the plain loss; run after the final prune.
      on_phase: called with each of the two records.
      checkpoints: where to save the run and whether to go on with one, see `Checkpoints`.
      progress: whether to show a line that tells phase, steps, loss, learning rate and the time
        that is left; it changes in place in a terminal and a notebook. It reads what is on the host
        already: the run does not wait for it, and its results do not change.

    Returns:
      The final state, masked for good, and two records: "training", evaluated before the final
      prune, and "final prune", whose sparsity is the achieved one.

    Raises:
      ValueError: if the learning rates are not a one-dimensional array of finite numbers, or not
        one for each step that the method was made for; if the step was made from the plain loss;
        a checkpoint of another run.
      TypeError: before any training, if a function is of the wrong kind.
      FloatingPointError, FileNotFoundError, FileExistsError, OSError, Preempted: as `imp`.
    """
    rates = np.asarray(learning_rates, np.float32)
    method, planned = prepared.method, prepared.method.total_steps
    if planned is not None and len(rates) != planned:
        raise ValueError(
            f"{method.name} was made for total_steps={planned}, but there are {len(rates)} "
            "learning rates: its mask would not get where it is to end. Make the two agree."
        )
    first = prepared.state
    if method.parametrization is not None and train.step.loss_fn is prepared.plain_loss_fn:
        raise ValueError(
            f"the training step was made from the plain loss_fn, so that it would not see the "
            f"parametrization of {method.name}. Make it from prepared.loss_fn and "
            "prepared.make_optimizer."
        )
    shown = jax.eval_shape(prepared.deployed, first) if is_abstract(evaluate) else None
    check_hooks(
        evaluate,
        prepared.deployed(first) if shown is None else shown,
        metric,
        recalibrate=recalibrate,
        on_phase=on_phase,
    )

    def fingerprint() -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        return {
            **describe_model(first.params, first.model_state),
            "method": method.name,
            "transform": describe_function(method.transform),
            "parametrization": describe_function(method.parametrization),
            "final_prune": describe_function(method.final_prune),
            "sparsity": method.sparsity,
            "total_steps": method.total_steps,
            "learning rates": describe_array(rates),
            "recalibrate": recalibrate is not None,
            "optimizer": describe_optimizer(first.opt_state),
            "key": np.asarray(jax.random.key_data(first.key)).tolist(),
        }

    own = Run(
        train,
        checkpoints,
        copy(first),
        fingerprint=fingerprint,
        on_phase=on_phase,
        progress=len(rates) if progress else None,
        first_phase="training",
    )
    with own as run:
        while not run.records:
            if run.start is None:
                run.begin()
            if run.train(rates):
                seen, mask = prepared.deployed(run.state), prepared.finished(run.state).mask
                result = evaluate(seen)
                kept, prunable = _nonzero(seen.params, mask), metrics.counts(mask)[1]
                run.end("training", 0, rates, result, kept=kept, prunable=prunable)

        before, end = run.records[0], prepared.finished(run.state)
        if recalibrate is not None:
            end = recalibrated(recalibrate, end)
        result = evaluate(end)
        kept, prunable = metrics.counts(end.mask)
        # What has just grown is zero, but in the mask: then nothing was removed.
        removed = max(0, before.nonzero - kept)
        run.begin(
            end,
            evaluation_pruned=result,
            stability=stability(metric or "accuracy", result, before.evaluation),
            pruned_fraction=removed / before.nonzero if before.nonzero else 0.0,
        )
        # It takes no step and follows from the state before it, so it is not saved.
        none = np.zeros((0,), np.float32)
        run.end("final prune", 1, none, result, kept=kept, prunable=prunable, save=False)
    return RunResult(run.state, run.records)
