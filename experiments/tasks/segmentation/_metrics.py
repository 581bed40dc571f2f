"""What is minimised and what is counted: cross entropy of pixels, and overlaps of classes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models import LossFn
from jaxprune.training import Evaluate, TrainState

EvalFn = Callable[[Any, Any, Mapping[str, jax.Array]], dict[str, tuple[jax.Array, jax.Array]]]


def make_loss_fn(model: Any, num_classes: int) -> LossFn:
    """Builds the training loss: mean cross entropy over the pixels that are not void.

    Args:
      model: called as ``model(image, train)``.
      num_classes: number of classes.

    Returns:
      ``loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))``, with the
      metrics "loss", "pixel_accuracy" and "mean_iou", that of the batch alone.
    """

    def loss_fn(
        params: Any, model_state: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> Any:
        logits, updated = model.apply(
            {"params": params, **model_state},
            batch["image"],
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        losses, counted = _per_pixel(logits, batch["label"])
        number = jnp.maximum(jnp.sum(counted), 1).astype(jnp.float32)
        loss = jnp.sum(losses) / number
        both, theirs, ours = _overlaps(logits, batch["label"], counted, num_classes)
        metrics = {
            "loss": loss,
            "pixel_accuracy": jnp.sum(both).astype(jnp.float32) / number,
            "mean_iou": _mean_iou(both, theirs, ours),
        }
        return loss, (dict(updated), metrics)

    return loss_fn


def make_eval_fn(model: Any, num_classes: int, prepare: Callable[[jax.Array], jax.Array]) -> EvalFn:
    """Builds the evaluation of a batch, as sums over pixels that are not void.

    Args:
      model: called as ``model(image, train)``.
      num_classes: number of classes.
      prepare: what makes the model's input of the raw images.

    Returns:
      ``eval_fn(params, model_state, batch)``, which gives {"loss": (sum, pixels), "pixel_accuracy":
      ...}, and for each class c the pixels that are of it by both ("both c"), by the labels
      ("theirs c") and by the network ("ours c"), each with the number of all pixels. Numbers of
      pixels are integers, and so exact.
    """

    def eval_fn(
        params: Any, model_state: Any, batch: Mapping[str, jax.Array]
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        label = jnp.where(batch["weight"][:, None, None] > 0, batch["label"].astype(jnp.int32), -1)
        image = prepare(batch["image"])
        logits = model.apply({"params": params, **model_state}, image, train=False)
        losses, counted = _per_pixel(logits, label)
        pixels = jnp.sum(counted)
        overlaps = _overlaps(logits, label, counted, num_classes)
        pairs = {
            "loss": (jnp.sum(losses), pixels),
            "pixel_accuracy": (jnp.sum(overlaps[0]), pixels),
        }
        for name, numbers in zip(("both", "theirs", "ours"), overlaps, strict=True):
            for c in range(num_classes):
                pairs[f"{name} {c}"] = (numbers[c], pixels)
        return pairs

    return eval_fn


def with_mean_iou(evaluate: Evaluate, num_classes: int) -> Evaluate:
    """Makes "mean_iou" of the overlaps over the whole set, which are not returned."""

    def evaluated(state: TrainState) -> dict[str, float]:
        values = evaluate(state)
        both, theirs, ours = (
            np.array([values.pop(f"{name} {c}") for c in range(num_classes)])
            for name in ("both", "theirs", "ours")
        )
        return {**values, "mean_iou": mean_iou(both, theirs, ours)}

    return evaluated


def mean_iou(both: np.ndarray, theirs: np.ndarray, ours: np.ndarray) -> float:
    """The mean over classes of the intersection divided by the union.

    Args:
      both: [classes], pixels that are of a class by labels and network.
      theirs: [classes], by the labels.
      ours: [classes], by the network.

    Returns:
      The mean over the classes that occur, in labels or network; NaN if there is none.

    Example:
      >>> mean_iou(np.array([1, 2, 0]), np.array([2, 2, 0]), np.array([1, 3, 0]))
      0.5833333333333333
    """
    union = theirs + ours - both
    there = union > 0
    return float(np.mean(both[there] / union[there])) if there.any() else float("nan")


def _per_pixel(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of each pixel, 0 where it is void, and whether it counts: [b, h, w]."""
    counted = label >= 0
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    at = jnp.maximum(label, 0)[..., None]
    losses = -jnp.take_along_axis(log_probabilities, at, axis=-1)[..., 0]
    return jnp.where(counted, losses, 0.0), counted


def _overlaps(
    logits: jax.Array, label: jax.Array, counted: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pixels that are of each class by both, by the labels, and by the network: int32 [classes]."""
    classes = jnp.arange(num_classes, dtype=jnp.int32)
    of_label = (label[..., None] == classes) & counted[..., None]
    of_network = (jnp.argmax(logits, axis=-1)[..., None] == classes) & counted[..., None]
    axes = tuple(range(label.ndim))
    return (
        jnp.sum(of_label & of_network, axis=axes),
        jnp.sum(of_label, axis=axes),
        jnp.sum(of_network, axis=axes),
    )


def _mean_iou(both: jax.Array, theirs: jax.Array, ours: jax.Array) -> jax.Array:
    """`mean_iou` in compiled code; 0 of no class."""
    union = theirs + ours - both
    there = (union > 0).astype(jnp.float32)
    shares = both.astype(jnp.float32) / jnp.maximum(union, 1).astype(jnp.float32)
    return jnp.sum(there * shares) / jnp.maximum(jnp.sum(there), 1.0)
