"""Scores by their names on the command line, with what they need from the run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments import registry
from experiments.inputs import Inputs

# Training batches that gradients and activations are taken from.
_BATCHES = 4


def make_scores(
    name: str, fed: Inputs, model: Any, model_state: Any, key: jax.Array
) -> Callable[[Any], Any]:
    """The score function of a name.

    Args:
      name: a key of `registry.SCORES`.
      fed: what the run is fed with.
      model: called as ``model(*fed.arguments(batch), train)``.
      model_state: its statistics at the start. In training mode they change no result.
      key: for scores that are drawn.

    Returns:
      ``scores(params)``. Scores that need more than the parameters get it here: gradients and
      activations are those of the first training batches, at the parameters that are scored.
    """
    entry = registry.SCORES[name]
    function = entry.load()
    needed = [n for n, p in entry.parameters.items() if p.required and n != "params"]
    if not needed:
        return function
    if needed == ["key"]:
        return partial(function, key)
    loss_fn = fed.loss_fn(model)

    def loss(params: Any, batch: Any) -> jax.Array:
        return loss_fn(params, model_state, batch, key)[0]

    def forward(params: Any, inputs: tuple[jax.Array, ...]) -> Any:
        variables = {"params": params, **model_state}
        return model.apply(
            variables, *inputs, train=True, mutable=list(model_state), rngs={"dropout": key}
        )[0]

    def inference(params: Any, *inputs: jax.Array) -> Any:
        return model.apply({"params": params, **model_state}, *inputs, train=False)

    def mean_gradient(params: Any) -> Any:
        gradients = [gradient(params, batch) for batch in batches]
        return jax.tree.map(lambda *each: sum(each) / len(each), *gradients)

    # Made here, because the scores are also traced.
    number = min(_BATCHES, fed.epoch_steps) if registry.needs_batches(name) else 0
    make_batch = jax.jit(lambda batch_at, step: batch_at(step))
    if not isinstance(fed.batch_at, jax.tree_util.Partial):  # made by the host
        make_batch = lambda batch_at, step: batch_at(step)  # noqa: E731
    batches = [make_batch(fed.batch_at, step) for step in range(number)]
    gradient = jax.jit(jax.grad(loss))
    # The Hessian is that of one batch, as in the paper.
    curvature = jax.jit(
        lambda params, batch: jp.scores.hessian_gradient_product(partial(loss, batch=batch), params)
    )
    makers: dict[str, Callable[[Any], Any]] = {
        "key": lambda params: key,
        "params": lambda params: params,
        "apply": lambda params: inference,
        "grads": mean_gradient,
        "hessian_gradient": lambda params: curvature(params, batches[0]),
        # Of whole batches: batch norm has no gradient of a single example.
        "squared_grads": lambda params: jp.scores.diagonal_fisher(
            loss, params, batches, per_example=False
        ),
        "input_norms": lambda params: jp.scores.input_norms(
            forward, params, [fed.arguments(batch) for batch in batches]
        ),
    }
    required = [n for n, p in entry.parameters.items() if p.required]
    shapes = fed.example if "apply" in required else ()
    inputs = [jnp.zeros(x.shape, x.dtype) for x in shapes]

    def scores(params: Any) -> Any:
        return function(*(makers[n](params) for n in required), *inputs)

    return scores
