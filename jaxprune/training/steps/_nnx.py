"""A Flax NNX module as the pure functions that training here takes, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.training.steps._contracts import check_calls
from jaxprune.training.steps._evaluate import EvalFn
from jaxprune.training.steps._nnx_variables import Seeds, Variables, check_same
from jaxprune.training.steps._sharding import Rule
from jaxprune.training.steps._state import TrainState, copy
from jaxprune.training.steps._update import LossFn

if TYPE_CHECKING:  # importing Flax takes time, which only those pay who have a module of it
    from flax import nnx

Module: TypeAlias = "nnx.Module"


class NnxNetwork(NamedTuple):
    """A Flax NNX module taken apart; see `from_nnx`.

    Attributes:
      params: nested dicts of the trained arrays, with the module's own names. A parameter that is
        shared is here once, under the first of its paths, and stays shared.
      model_state: nested dicts of all other arrays, such as batch statistics. Not the states of
        random streams: each step seeds them anew from its key.
      loss_fn: as `make_train_step` takes it; the module is in training mode.
      eval_fn: as `make_evaluate` takes it; the module is in evaluation mode.
      sharding: the rule of `make_train_step` that the partitioning metadata of the parameters
        spell; what has none is kept whole everywhere.
      merged: ``merged(state)`` gives a new module with the parameters and statistics of a state.
      update: ``update(module, state)`` writes them into a module, in place.
    """

    params: PyTree
    model_state: PyTree
    loss_fn: LossFn
    eval_fn: EvalFn
    sharding: Rule
    merged: Callable[[TrainState], Any]
    update: Callable[[Any, TrainState], None]


def from_nnx(
    model: Module,
    loss: Callable[[Any, PyTree], Any],
    evaluate: Callable[[Any, PyTree], dict[str, Any]] | None = None,
    *,
    wrt: Any = None,
) -> NnxNetwork:
    """Takes a Flax NNX module apart into what `TrainState`, steps, loops and `imp` work with.

    ``loss`` and ``evaluate`` get a module that is put together anew in each call, so they may use
    it like any other: batch norms keep their statistics, and dropout draws from the step's key,
    whatever the module's own seeds are. The same key gives the same masks, so runs can be repeated
    and resumed. Streams that were seeded alike draw alike. What ``loss`` does to parameters is not
    kept; what a forward pass sows is dropped.

    Args:
      model: the module. It is not changed.
      loss: ``loss(model, batch)`` returns the loss, a mean over the batch, or ``(loss, metrics)``,
        the metrics a dict of scalars. ``model.train()`` has been called; to keep a part in
        evaluation mode, say so here (``model.norm.eval()``).
      evaluate: ``evaluate(model, batch) -> {name: (sum, count)}``, weighted by ``batch["weight"]``;
        see `make_evaluate`. ``model.eval()`` has been called.
      wrt: which variables are trained, a filter of NNX; `nnx.Param` if omitted. All others are
        model state.

    Returns:
      Parameters, model state, ``loss_fn``, ``eval_fn``, and the way back into a module.

    Raises:
      TypeError: if ``model`` is no NNX module, or ``loss`` or ``evaluate`` is not called as above;
        while tracing, if ``loss`` returns something else.
      ValueError: if nothing is trained, or the module has no values; while tracing, if ``loss``
        adds variables to the module; in ``update``, if the module is another one.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> from flax import nnx
      >>> model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
      >>> net = jp.training.from_nnx(model, lambda model, batch: jnp.mean(model(batch) ** 2))
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> state = jp.training.TrainState.create(
      ...     net.params, sgd, model_state=net.model_state, key=jax.random.key(0)
      ... )
      >>> step = jp.training.make_train_step(net.loss_fn, sgd)
      >>> state, metrics = step(state, jnp.ones((8, 4)), 0.1)
      >>> net.update(model, state)
      >>> bool(jnp.all(model.kernel[...] == state.params["kernel"]))
      True
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise TypeError(
            "model is a module of Flax NNX (an instance of flax.nnx.Module); got "
            f"{model!r:.80} of type {type(model).__name__}. Other networks need no helper: "
            "write loss_fn(params, model_state, batch, key) for them."
        )
    check_calls("loss", loss, ["model", "batch"])
    check_calls("evaluate", evaluate, ["model", "batch"])
    filters = (nnx.Param if wrt is None else wrt, nnx.RngState, ...)
    own = nnx.clone(model)
    nnx.pop(own, nnx.Intermediate)  # of earlier calls
    graph, *states = nnx.split(own, *filters)
    trained, rest = Variables(states[0]), Variables(states[2])
    if not jax.tree.leaves(states[0]):
        raise ValueError(
            f"nothing of the module is trained: it has no variable of {filters[0]!r}. Pass wrt=, "
            "a filter of NNX, for others."
        )
    abstract = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(states))
    if abstract or _tree.is_traced(states):
        raise ValueError(
            "the module is abstract (nnx.eval_shape), or made inside a compiled function: it has "
            "no values to train. Make it outside, and call from_nnx there."
        )
    seeds = Seeds(states[1])

    def put_together(params: PyTree, model_state: PyTree, random: PyTree) -> Module:
        # A copy, or the variables would be those of another trace.
        return nnx.merge(graph, trained.of(params), random, rest.of(model_state), copy=True)

    def loss_fn(params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array) -> Any:
        module = put_together(params, model_state, seeds.of(key))
        module.train()
        returned = loss(module, batch)
        value, metrics = _loss_and_metrics(returned)
        nnx.pop(module, nnx.Intermediate)
        after = nnx.split(module, *filters)[3]
        check_same(states[2], after, "loss(model, batch) changes the variables of the model")
        return value, (rest.taken_from(after), metrics)

    def eval_fn(params: PyTree, model_state: PyTree, batch: PyTree) -> Any:
        if evaluate is None:
            raise TypeError("from_nnx was given no evaluation; pass it as evaluate=.")
        module = put_together(params, model_state, seeds.of(None))
        module.eval()
        return evaluate(module, batch)

    def merged(state: TrainState) -> Module:
        # Copied: the next step donates the buffers of the state.
        params, model_state = copy((state.params, state.model_state))
        return put_together(params, model_state, seeds.of(None))

    def update(module: Module, state: TrainState) -> None:
        carried = nnx.Not(nnx.Any(nnx.RngState, nnx.Intermediate))
        new = nnx.state(merged(state), carried)
        check_same(new, nnx.state(module, carried), "update is given another module")
        nnx.update(module, new)

    return NnxNetwork(
        params=trained.taken_from(states[0]),
        model_state=rest.taken_from(states[2]),
        loss_fn=loss_fn,
        eval_fn=eval_fn,
        sharding=trained.sharding(states[0]),
        merged=merged,
        update=update,
    )


def _loss_and_metrics(returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, (tuple, list)):
        return returned, {}
    if len(returned) != 2:
        raise TypeError(
            "loss(model, batch) returns the loss, or (loss, metrics); got "
            f"{len(returned)} values. Put what is to be reported into the dict of metrics."
        )
    return returned[0], returned[1]
