"""Pairs of sentences in memory, as tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.config import Config
from experiments.prepared import find_prepared, resolve_data_dir
from experiments.tasks import check_text
from experiments.tasks._texts import read_texts
from experiments.tasks._vocabulary import Vocabulary, learn

PAD, BEGIN, END = 0, 1, 2
"""Special tokens: behind the end, before the first token of a translation, and after the last."""
SPECIAL = 3
"""How many there are; the tokens of the vocabulary follow."""


class Sentences(NamedTuple):
    """A split.

    Attributes:
      source: int32 [tokens] of each sentence, `END` last.
      target: likewise, of its translation.
      reference: the translations as text.
    """

    source: list[np.ndarray]
    target: list[np.ndarray]
    reference: list[str]


class Pairs(NamedTuple):
    """A set to learn a translation from.

    Attributes:
      name: what it was loaded by.
      train: what is trained on.
      validation: never trained on.
      test: likewise.
      vocabulary: of both languages.
      version: of the set; `None` if it has none.
    """

    name: str
    train: Sentences
    validation: Sentences
    test: Sentences
    vocabulary: Vocabulary
    version: str | None = None

    def longest(self) -> int:
        """Tokens of the longest sentence, its end included."""
        splits = (self.train, self.validation, self.test)
        return max(len(one) for split in splits for one in (*split.source, *split.target))


def read(config: Config, say: Callable[[str], object] | None) -> Pairs:
    """Reads the set of a configuration.

    Where it has no validation split, the last twentieth of its training split is that.

    Raises:
      ValueError, FileNotFoundError: if it is not there, has not two text fields, or is damaged.
    """
    fields = check_text(config.data, config.data_dir, config.text_fields, 2)
    prepared = find_prepared(config.data, resolve_data_dir(config.data_dir))
    if say is not None:
        say(f"Reading {config.data} {prepared.version}, {fields[0]} to {fields[1]} ...")
    names, found = read_texts(config.data, prepared, fields)
    train, test = found[names.train], found[names.test]
    if names.validation is None:
        kept = len(train) - max(1, len(train) // 20)
        train, validation = train[:kept], train[kept:]
    else:
        validation = found[names.validation]
    splits = {"train": train, "validation": validation, "test": test}
    return make_pairs(config.data, splits, config.vocabulary, version=prepared.version)


def make_pairs(
    name: str,
    splits: Mapping[str, Sequence[tuple[str, ...]]],
    vocabulary: int,
    *,
    version: str | None = None,
) -> Pairs:
    """Makes tokens of pairs of sentences.

    Args:
      name: of the set.
      splits: (source, target) of each pair of "train", "validation" and "test".
      vocabulary: number of tokens without special ones; learned from both sides of training.
      version: of the set, if it has one.

    Raises:
      ValueError: if a split has no pair.
    """
    for split, pairs in splits.items():
        if not pairs:
            raise ValueError(f"{name} has no pair of sentences for {split}.")
    made = learn((text for pair in splits["train"] for text in pair), vocabulary)

    def encoded(texts: list[str]) -> list[np.ndarray]:
        return [np.append(one + SPECIAL, END).astype(np.int32) for one in made.encode(texts)]

    found = {
        split: Sentences(
            encoded([pair[0] for pair in pairs]),
            encoded([pair[1] for pair in pairs]),
            [pair[1] for pair in pairs],
        )
        for split, pairs in splits.items()
    }
    return Pairs(name, found["train"], found["validation"], found["test"], made, version)
