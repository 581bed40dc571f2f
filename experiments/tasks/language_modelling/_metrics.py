"""What is minimised and what is counted: the cross entropy of the next token."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models import LossFn
from experiments.tasks._cross_entropy import per_token
from jaxprune.training import Evaluate, TrainState

EvalFn = Callable[[Any, Any, Mapping[str, jax.Array]], dict[str, tuple[jax.Array, jax.Array]]]


def make_loss_fn(model: Any) -> LossFn:
    """Builds the training loss: mean cross entropy of the next token, in nats.

    Args:
      model: called as ``model(tokens, train)``.

    Returns:
      ``loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))`` of a batch
      {"tokens": int32 [b, length + 1]}. The metrics are "loss", "perplexity", its exponential, and
      "token_accuracy".
    """

    def loss_fn(
        params: Any, model_state: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> Any:
        tokens = batch["tokens"]
        logits, updated = model.apply(
            {"params": params, **model_state},
            tokens[:, :-1],
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        losses, correct = per_token(logits, tokens[:, 1:])
        loss = jnp.mean(losses)
        metrics = {
            "loss": loss,
            "perplexity": jnp.exp(loss),
            "token_accuracy": jnp.mean(correct),
        }
        return loss, (dict(updated), metrics)

    return loss_fn


def make_eval_fn(model: Any) -> EvalFn:
    """Builds the evaluation of a batch of `windows`, as sums over tokens and their number.

    Args:
      model: called as ``model(tokens, train)``.

    Returns:
      ``eval_fn(params, model_state, batch) -> {"loss": (sum, tokens), "token_accuracy": ...}``.
    """

    def eval_fn(
        params: Any, model_state: Any, batch: Mapping[str, jax.Array]
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        tokens = batch["tokens"]
        logits = model.apply({"params": params, **model_state}, tokens[:, :-1], train=False)
        losses, correct = per_token(logits, tokens[:, 1:])
        place = jnp.arange(losses.shape[1], dtype=jnp.int32)[None]
        counted = (place < batch["predicted"][:, None]) & (batch["weight"][:, None] > 0)
        count = jnp.sum(counted.astype(jnp.float32))
        return {
            "loss": (jnp.sum(jnp.where(counted, losses, 0.0)), count),
            "token_accuracy": (jnp.sum(jnp.where(counted, correct, 0.0)), count),
        }

    return eval_fn


def with_perplexity(evaluate: Evaluate) -> Evaluate:
    """Adds "perplexity", the exponential of the mean loss over all tokens."""

    def evaluated(state: TrainState) -> dict[str, float]:
        values = evaluate(state)
        # Without a warning where a diverged network has no finite one.
        with np.errstate(over="ignore"):
            return {**values, "perplexity": float(np.exp(values["loss"]))}

    return evaluated
