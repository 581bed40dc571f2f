"""A text in memory as tokens, and batches of stretches of it."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.config import Config
from experiments.prepared import find_prepared, resolve_data_dir
from experiments.tasks import check_text
from experiments.tasks._texts import read_texts
from experiments.tasks._vocabulary import Vocabulary, learn

# Sets the draws of batches apart from what others draw by the same seed.
_STREAM = int.from_bytes(b"text")


class Text(NamedTuple):
    """A text to model.

    Attributes:
      name: what it was loaded by.
      train: int32 [tokens].
      validation: likewise.
      test: likewise.
      vocabulary: of the tokens.
      version: of the set; `None` for a file.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: Vocabulary
    version: str | None = None


def read(config: Config, say: Callable[[str], object] | None) -> Text:
    """Reads the text of a configuration.

    Of a file the last twentieth is the test set, and the one before it the validation set; both
    begin at a character. Of a set with a text field each example is followed by an empty line.
    Where the set has no validation split, the last twentieth of its training text is that.

    Raises:
      ValueError, OSError: if there is no such text, or it is empty, or no UTF-8.
    """
    fields = check_text(config.data, config.data_dir, config.text_fields, 1)
    if say is not None:
        say(f"Reading {config.data} ...")
    if not fields:
        path = pathlib.Path(config.data).expanduser()
        try:
            whole = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error}). Convert it.") from error
        cuts = [len(whole) * 18 // 20, len(whole) * 19 // 20]
        parts = (whole[: cuts[0]], whole[cuts[0] : cuts[1]], whole[cuts[1] :])
        return make_text(config.data_name(), parts, config.vocabulary)
    prepared = find_prepared(config.data, resolve_data_dir(config.data_dir))
    splits, found = read_texts(config.data, prepared, fields)
    joined = {split: "".join(f"{one}\n\n" for (one,) in texts) for split, texts in found.items()}
    train, test = joined[splits.train], joined[splits.test]
    if splits.validation is None:
        cut = len(train) * 19 // 20
        train, validation = train[:cut], train[cut:]
    else:
        validation = joined[splits.validation]
    return make_text(
        config.data, (train, validation, test), config.vocabulary, version=prepared.version
    )


def make_text(
    name: str, parts: Sequence[str], vocabulary: int, *, version: str | None = None
) -> Text:
    """Makes tokens of texts.

    Args:
      name: of the text.
      parts: of training, validation and test.
      vocabulary: number of tokens, see `experiments.tasks._vocabulary.learn`.
      version: of the set, if it has one.

    Raises:
      ValueError: if one of them is empty.
    """
    for part, what in zip(parts, ("training", "validation", "test"), strict=True):
        if not part:
            raise ValueError(f"{name} leaves no text for {what}; give a longer one.")
    # By lines, which is how the words of a vocabulary are counted best.
    made = learn(parts[0].splitlines(keepends=True), vocabulary)
    train, validation, test = (np.concatenate(made.encode([part])) for part in parts)
    return Text(name, train, validation, test, made, version)


def windows(tokens: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """All of a text for evaluation: every token but the first is predicted once.

    Args:
      tokens: int32 [n].
      length: tokens to predict in one go, each from those before it in the same window.

    Returns:
      {"tokens": int32 [windows, length + 1], "predicted": int32 [windows]}: how many are predicted
      in each; what follows is padding with zeros.

    Raises:
      ValueError: if there is nothing to predict.

    Example:
      >>> windows(np.arange(6, dtype=np.int32), 3)["tokens"].tolist()
      [[0, 1, 2, 3], [3, 4, 5, 0]]
    """
    if len(tokens) < 2:
        raise ValueError(
            f"a text of {len(tokens)} tokens leaves nothing to predict; give more text."
        )
    starts = np.arange(0, len(tokens) - 1, length)
    padded = np.pad(tokens, (0, length))
    return {
        "tokens": padded[starts[:, None] + np.arange(length + 1)],
        "predicted": np.minimum(length, len(tokens) - 1 - starts).astype(np.int32),
    }


def windows_per_epoch(tokens: int, length: int) -> int:
    """Stretches of a text that an epoch trains on.

    Raises:
      ValueError: if the text is shorter than two of them.
    """
    if tokens < 2 * length:
        raise ValueError(
            f"the text of training has {tokens} tokens, fewer than two sequences of "
            f"max_length={length}; give more text, or at most --max-length {tokens // 2}."
        )
    return tokens // length - 1


def make_batch_at(
    tokens: np.ndarray, *, batch_size: int, length: int, seed: int
) -> jax.tree_util.Partial:
    """Builds ``batch_at(step)``, which makes the batch of a step from nothing but (seed, step).

    An epoch cuts the text into stretches of ``length`` tokens, at a place that the epoch draws, and
    goes through them in an order of its own. What is left over at the ends, and stretches that do
    not fill a batch, are others in every epoch.

    Args:
      tokens: int32 [n].
      batch_size: stretches a batch.
      length: tokens to predict in each.
      seed: names the order.

    Returns:
      ``batch_at(step) -> {"tokens": int32 [batch_size, length + 1]}``.

    Raises:
      ValueError: if the text is too short for a batch.
    """
    number = windows_per_epoch(len(tokens), length)
    data.steps_per_epoch(number, batch_size)
    key = jax.jit(lambda: jax.random.fold_in(jax.random.key(seed), _STREAM))()
    return jax.tree_util.Partial(
        _BatchAt(batch_size, length, number), jax.device_put(tokens.astype(np.int32)), key
    )


@dataclasses.dataclass(frozen=True)
class _BatchAt:
    """The static part of ``batch_at``: compared by value, so that equal ones compile once."""

    batch_size: int
    length: int
    number: int

    def __call__(
        self, tokens: jax.Array, key: jax.Array, step: jax.typing.ArrayLike
    ) -> dict[str, jax.Array]:
        steps = self.number // self.batch_size
        step = jnp.asarray(step).astype(jnp.int32)
        order_key, shift_key = jax.random.split(jax.random.fold_in(key, step // steps))
        position = step % steps * self.batch_size + jnp.arange(self.batch_size, dtype=jnp.int32)
        chosen = data.permuted(position, self.number, order_key)
        shift = jax.random.randint(shift_key, (), 0, self.length)
        starts = (shift + chosen * self.length)[:, None]
        return {"tokens": tokens[starts + jnp.arange(self.length + 1, dtype=jnp.int32)[None]]}
