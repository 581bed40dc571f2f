"""What is minimised in training, and what is counted in evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Params = Any
ModelState = dict[str, Any]
Metrics = dict[str, jax.Array]
LossFn = Callable[
    [Params, ModelState, Mapping[str, jax.Array], jax.Array],
    tuple[jax.Array, tuple[ModelState, Metrics]],
]
EvalFn = Callable[
    [Params, ModelState, Mapping[str, jax.Array]], dict[str, tuple[jax.Array, jax.Array]]
]


def init(model: nn.Module, key: jax.Array, image_shape: Sequence[int]) -> tuple[Params, ModelState]:
    """Draw the parameters of a model.

    Args:
        model: called as `model(x, train)`.
        key: consumed.
        image_shape: (height, width, channels).

    Returns:
        (params, model_state); the state is {"batch_stats": ...}, or {} without batch normalisation.
    """
    return init_with(model, key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def init_with(
    model: nn.Module, key: jax.Array, *example: jax.ShapeDtypeStruct
) -> tuple[Params, ModelState]:
    """Draw the parameters of a model of any inputs.

    Args:
        model: called as `model(*inputs, train)`.
        key: consumed.
        *example: shapes and types of the inputs.

    Returns:
        As `init`.
    """

    def draw(key: jax.Array) -> Any:
        return model.init(key, *(jnp.zeros(x.shape, x.dtype) for x in example), train=False)

    # Compiled, because the compiler then drops the forward pass, of which only shapes are needed.
    variables = jax.jit(draw)(key)
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def make_loss_fn(model: Any) -> LossFn:
    """Build the training loss: mean cross entropy. Weight decay is the optimizer's business.

    Args:
        model: called as `model(x, train)`, or what is left of one (`Shrunk`).

    Returns:
        `loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))`, where batch is
        {"image": normalised float [b, height, width, channels], "label": int32 [b]}. The metrics
        "loss" and "accuracy" are float32 means over the batch. The key serves dropout, if the model
        has any.
    """

    def loss_fn(
        params: Params, model_state: ModelState, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        logits, updated = model.apply(
            {"params": params, **model_state},
            batch["image"],
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        losses, correct = _per_example(logits, batch["label"])
        loss = jnp.mean(losses)
        metrics = {"loss": loss, "accuracy": jnp.mean(correct)}
        return loss, (dict(updated), metrics)

    return loss_fn


def make_eval_fn(
    model: nn.Module, prepare: Callable[[jax.Array], jax.Array] | None = None
) -> EvalFn:
    """Build the evaluation of one batch as sums, so that batches and devices simply add up.

    Args:
        model: called as `model(x, train)`, here with running batch statistics.
        prepare: what makes the model's input of the raw images, e.g. normalisation.

    Returns:
        `eval_fn(params, model_state, batch) -> {"loss": (sum, count), "accuracy": (sum, count)}`,
        float32 scalars, where batch is {"image", "label", optional "weight"}. "weight" [b] is 0
        for padding and 1 otherwise; sums are weighted by it and the count is its sum.
    """

    def eval_fn(
        params: Params, model_state: ModelState, batch: Mapping[str, jax.Array]
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        image, label = batch["image"], batch["label"]
        if prepare is not None:
            image = prepare(image)
        logits = model.apply({"params": params, **model_state}, image, train=False)
        losses, correct = _per_example(logits, label)
        weight = batch.get("weight")
        weight = jnp.ones(label.shape) if weight is None else weight.astype(jnp.float32)
        count = jnp.sum(weight)
        # where, not a product alone: padding may hold anything, and 0 * inf is not 0.
        losses = jnp.where(weight > 0, losses, 0.0)
        return {
            "loss": (jnp.sum(weight * losses), count),
            "accuracy": (jnp.sum(weight * correct), count),
        }

    return eval_fn


def _per_example(logits: Any, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross entropy and 0/1 correctness of each example, float32 [batch]."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    losses = -jnp.take_along_axis(log_probabilities, label[:, None], axis=-1)[:, 0]
    return losses, (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)
