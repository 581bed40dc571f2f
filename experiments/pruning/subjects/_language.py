"""Causal language models: perplexity on a text."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.pretrained import Network, huggingface, kjv
from experiments.pruning import batches
from experiments.pruning.options import Settings
from experiments.pruning.subject import Subject
from experiments.tasks._cross_entropy import per_token
from experiments.tasks.language_modelling import windows

_LENGTH = 128


def folder(settings: Settings, console: Console) -> Subject:
    """A language model out of a folder of Hugging Face, and the text that the settings name."""
    del console
    path = pathlib.Path(settings.model)
    return language(huggingface.load(path), path / "tokenizer.json", settings)


def language(network: Network, tokenizer: pathlib.Path, settings: Settings) -> Subject:
    """A language model and its tokenizer, on a text.

    Of the text the last twentieth is for the test; the one before it is never used, so that a
    network that `experiments.run` trained on the text has not seen the test either.
    """
    name, text = _text(settings)
    cuts = [len(text) * 18 // 20, len(text) * 19 // 20]
    apply: Any = network.apply
    longest = apply.keywords["of"].longest
    length = settings.length or min(_LENGTH, longest)
    train, test = _tokens(tokenizer, (text[: cuts[0]], text[cuts[1] :]))
    pieces = len(train) // (length + 1)
    if pieces < settings.calibration:
        raise ValueError(
            f"the text has {pieces} stretches of {length} tokens, fewer than "
            f"calibration={settings.calibration}. Give more text, or a smaller --calibration."
        )
    stretches = train[: pieces * (length + 1)].reshape(pieces, length + 1)
    chosen = batches.order(pieces, settings.seed)[: settings.calibration]
    size = settings.batch_size or 16
    apply = network.apply

    def loss_fn(params: Any, model_state: Any, batch: jax.Array, key: jax.Array) -> Any:
        del key
        logits = apply(params, batch[:, :-1])
        losses, _ = per_token(logits, batch[:, 1:])
        loss = jnp.mean(losses)
        return loss, (model_state, {"loss": loss, "logits": logits})

    return Subject(
        network=network,
        calibration=batches.calibration(stretches[:, :-1], chosen, size),
        described={
            "set": name,
            "split": "the first 18 twentieths",
            "examples": settings.calibration,
            "length": length,
            "seed": settings.seed,
        },
        loss_fn=loss_fn,
        model_state=None,
        batch_at=batches.endless(stretches, settings.seed, size),
        batch_size=size,
        learning_rate=1e-3,
        evaluate=_Evaluate(apply, test, length, settings.examples, size),
        measure="perplexity",
        higher=False,
        teacher=lambda params, batch: apply(params, batch[:, :-1]),
    )


def _text(settings: Settings) -> tuple[str, str]:
    if settings.data is None:
        return kjv.PACKAGE, kjv.read()
    path = pathlib.Path(settings.data).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no text file {path}; --data names one.")
    try:
        return path.name, path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}). Convert it.") from error


def _tokens(file: pathlib.Path, texts: tuple[str, ...]) -> list[np.ndarray]:
    """The tokens of texts, without any that mark their ends."""
    try:
        import tokenizers
    except ImportError as error:
        what = f"{file} is read by the package tokenizers: pip install tokenizers"
        raise ImportError(what) from error
    made = tokenizers.Tokenizer.from_file(str(file))
    found = []
    for text in texts:
        parts = made.encode_batch(text.splitlines(keepends=True), add_special_tokens=False)
        found.append(np.concatenate([np.zeros(0, np.int32), *(part.ids for part in parts)]))
    return [tokens.astype(np.int32) for tokens in found]


class _Evaluate:
    """Perplexity a token, in windows of one length."""

    def __init__(self, apply: Any, tokens: np.ndarray, length: int, most: int, batch_size: int):
        found = windows(tokens, length)
        keep = found["predicted"] > 0
        self._windows = {k: v[keep][:most] for k, v in found.items()}
        self._size = batch_size

        def sums(params: Any, tokens: jax.Array, predicted: jax.Array) -> Any:
            losses, correct = per_token(apply(params, tokens[:, :-1]), tokens[:, 1:])
            counted = jnp.arange(losses.shape[1])[None] < predicted[:, None]
            return jnp.sum(jnp.where(counted, jnp.stack([losses, correct]), 0), (1, 2))

        self._sums = jax.jit(sums)

    def __call__(self, params: Any) -> dict[str, float]:
        tokens, predicted = self._windows["tokens"], self._windows["predicted"]
        rows = -len(tokens) % self._size  # whole batches, which compile once
        tokens = np.pad(tokens, ((0, rows), (0, 0)))
        predicted = np.pad(predicted, (0, rows))
        total = np.zeros(2)
        for i in range(0, len(tokens), self._size):
            part = slice(i, i + self._size)
            total += np.asarray(self._sums(params, tokens[part], predicted[part]), np.float64)
        loss, correct = total / predicted.sum()
        with np.errstate(over="ignore"):  # of a network that pruning has broken
            perplexity = float(np.exp(loss))
        return {"perplexity": perplexity, "loss": float(loss), "token_accuracy": float(correct)}
