"""What is minimised and what is counted: cross entropy of tokens, and BLEU of translations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.models import LossFn
from experiments.tasks._cross_entropy import per_token

from ._data import PAD

EvalFn = Callable[[Any, Any, Mapping[str, jax.Array]], dict[str, tuple[jax.Array, jax.Array]]]


def make_loss_fn(model: Any) -> LossFn:
    """Builds the training loss: mean cross entropy over the tokens of the translations.

    Args:
      model: called as ``model(source, target_in, train)``.

    Returns:
      ``loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))``, with the
      metrics "loss" and "token_accuracy". The mean is over the tokens of the whole batch; of parts
      of a batch (``accumulate``, ``parallel pmap``) it is the mean of their means.
    """

    def loss_fn(
        params: Any, model_state: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> Any:
        logits, updated = model.apply(
            {"params": params, **model_state},
            batch["source"],
            batch["target_in"],
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        losses, correct, counted = _counted(logits, batch["target"])
        number = jnp.maximum(jnp.sum(counted), 1.0)
        loss = jnp.sum(losses) / number
        return loss, (dict(updated), {"loss": loss, "token_accuracy": jnp.sum(correct) / number})

    return loss_fn


def make_eval_fn(model: Any) -> EvalFn:
    """Builds the evaluation of a batch, as sums over tokens and their number.

    Args:
      model: called as ``model(source, target_in, train)``.
    """

    def eval_fn(
        params: Any, model_state: Any, batch: Mapping[str, jax.Array]
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        logits = model.apply(
            {"params": params, **model_state}, batch["source"], batch["target_in"], train=False
        )
        target = jnp.where(batch["weight"][:, None] > 0, batch["target"], PAD)
        losses, correct, counted = _counted(logits, target)
        number = jnp.sum(counted)
        return {"loss": (jnp.sum(losses), number), "token_accuracy": (jnp.sum(correct), number)}

    return eval_fn


def _counted(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    losses, correct = per_token(logits, target)
    counts = target != PAD
    zero = jnp.zeros_like(losses)
    return jnp.where(counts, losses, zero), jnp.where(counts, correct, zero), counts * 1.0


def bleu(translations: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """The BLEU of a corpus, 0 to 100, and the signature of how it is computed.

    Raises:
      ImportError: if `sacrebleu` is missing.

    References:
      Post (2018), "A call for clarity in reporting BLEU scores".
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError(
            "translations are scored by sacrebleu, which is not installed: pip install sacrebleu"
        ) from error
    metric = BLEU()
    score = metric.corpus_score(list(translations), [list(references)]).score
    return float(score), str(metric.get_signature())
