"""MiniLM on the sentences of any prepared set: how near vectors stay to the dense ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.prepared import find_prepared, resolve_data_dir
from experiments.pretrained import minilm as network_of
from experiments.pruning import batches
from experiments.pruning.options import Settings
from experiments.pruning.subject import Subject
from experiments.tasks import check_text
from experiments.tasks._texts import read_texts

_LENGTH = 32
_NEIGHBOURS = 10


def minilm(settings: Settings, console: Console) -> Subject:
    """Calibration and training on sentences of the training split, nearness on those of the test.

    There are no labels: training pulls each vector towards the dense network's.
    """
    del console
    network = network_of.load()
    train, test, described = _sentences(settings)
    length = settings.length or _LENGTH
    chosen = batches.order(len(train), settings.seed)
    arrays = network_of.tokens(train, length)
    size = settings.batch_size or 32

    def loss_fn(params: Any, dense: Any, batch: jax.Array, key: jax.Array) -> Any:
        del key
        wanted = jax.lax.stop_gradient(network.apply(dense, batch))
        loss = jnp.mean(1 - jnp.sum(wanted * network.apply(params, batch), -1))
        return loss, (dense, {"loss": loss})

    return Subject(
        network=network,
        calibration=batches.calibration(arrays, chosen[: settings.calibration], size),
        described={
            **described,
            "examples": settings.calibration,
            "length": length,
            "seed": settings.seed,
        },
        loss_fn=loss_fn,
        model_state=network.params,
        batch_at=batches.endless(arrays, settings.seed, size),
        batch_size=size,
        learning_rate=2e-4,
        evaluate=_Evaluate(network_of.tokens(test[: settings.examples], length), network.params),
        measure="cosine",
        higher=True,
    )


def _sentences(settings: Settings) -> tuple[list[str], list[str], dict[str, Any]]:
    """Sentences to train on and to measure on, and what they are."""
    name = settings.data or "multi30k"
    (field,) = check_text(name, settings.data_dir, settings.text_field, 1)
    prepared = find_prepared(name, resolve_data_dir(settings.data_dir))
    splits, found = read_texts(name, prepared, (field,))
    train, test = ([text for (text,) in found[s]] for s in (splits.train, splits.test))
    return train, test, {"set": f"{name}:{prepared.version}", "split": splits.train, "field": field}


class _Evaluate:
    """The cosine with the dense vector, and how many of its nearest neighbours stay."""

    def __init__(self, tokens: np.ndarray, dense: Any):
        self._tokens = tokens
        self._apply = jax.jit(network_of.apply)
        self._wanted = self._vectors(dense)
        self._near = _nearest(self._wanted)

    def _vectors(self, params: Any, batch: int = 64) -> np.ndarray:
        rows = -len(self._tokens) % batch
        padded = np.concatenate([self._tokens, self._tokens[:1].repeat(rows, 0)])
        parts = [self._apply(params, padded[i : i + batch]) for i in range(0, len(padded), batch)]
        return np.concatenate([np.asarray(p) for p in parts])[: len(self._tokens)]

    def __call__(self, params: Any) -> dict[str, float]:
        found = self._vectors(params)
        shared = [len(set(a) & set(b)) for a, b in zip(self._near, _nearest(found), strict=True)]
        return {
            "cosine": float(np.mean(np.sum(found * self._wanted, -1))),
            "neighbours": float(np.mean(shared)) / self._near.shape[1],
        }


def _nearest(vectors: np.ndarray) -> np.ndarray:
    """The nearest other sentences of each, int64 ``[n, 10]``."""
    nearness = vectors @ vectors.T
    np.fill_diagonal(nearness, -np.inf)
    most = min(_NEIGHBOURS, len(vectors) - 1)
    return np.argsort(-nearness, axis=-1, kind="stable")[:, :most]
