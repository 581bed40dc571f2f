"""What is minimised in training, and what is counted in evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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
    # Compiled, because the compiler then drops the forward pass, of which only shapes are needed.
    variables = jax.jit(lambda k: model.init(k, jnp.zeros((1, *image_shape)), train=False))(key)
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def make_loss_fn(model: nn.Module, weight_decay: float = 0.0) -> LossFn:
    """Build the training loss: mean cross entropy, and optionally an L2 penalty.

    loss = mean_i CE(model(x_i), y_i) + weight_decay / 2 * sum of all squared parameters. The
    penalty's gradient is weight_decay * p for **every** parameter, biases and norm scales included:
    what SGD with weight decay does in the published recipes. Pruned weights are zero and add
    nothing.

    Args:
        model: called as `model(x, train)`.
        weight_decay: factor of the penalty, at least 0. Leave it 0 where the optimizer decays.

    Returns:
        `loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))`, where batch is
        {"image": normalised float [b, height, width, channels], "label": int32 [b]}. The metrics
        "loss" (the cross entropy **without** the penalty, to be compared with evaluation) and
        "accuracy" are float32 means over the batch. The key serves dropout, if the model has any.

    Raises:
        ValueError: negative weight decay.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay} must be zero or positive")

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
        cross_entropy = jnp.mean(losses)
        loss = cross_entropy
        if weight_decay:
            squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params)]
            loss = loss + 0.5 * weight_decay * sum(squares)
        metrics = {"loss": cross_entropy, "accuracy": jnp.mean(correct)}
        return loss, (dict(updated), metrics)

    return loss_fn


def make_eval_fn(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> EvalFn:
    """Build the evaluation of one batch as sums, so that batches and devices simply add up.

    Args:
        model: called as `model(x, train)`, here with running batch statistics.
        mean: mean of each channel, in [0, 1] units, for uint8 images.
        std: standard deviation of each channel, same units.

    Returns:
        `eval_fn(params, model_state, batch) -> {"loss": (sum, count), "accuracy": (sum, count)}`,
        float32 scalars, where batch is {"image", "label", optional "weight"}. Images of type uint8
        are normalised, floating ones taken as they are. "weight" [b] is 0 for padding and 1
        otherwise; sums are weighted by it and the count is its sum.
    """

    def eval_fn(
        params: Params, model_state: ModelState, batch: Mapping[str, jax.Array]
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        image, label = batch["image"], batch["label"]
        if image.dtype == jnp.uint8:
            image = _normalise(image, mean, std)
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


def _normalise(image: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    # The formula of experiments.data.normalise: models and data do not import each other, and a
    # test holds the two together.
    shift = 255 * np.asarray(mean, np.float32).reshape(1, 1, 1, -1)
    scale = 255 * np.asarray(std, np.float32).reshape(1, 1, 1, -1)
    return (image.astype(jnp.float32) - shift) / scale
