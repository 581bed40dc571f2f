"""Vocabularies: bytes, or byte pairs that `tokenizers` learns. Nothing is unknown to them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

BYTES = 256
"""The size of the vocabulary of single bytes, the smallest one."""


class Vocabulary(Protocol):
    """Maps text to tokens and back, without loss.

    Attributes:
      size: number of tokens; they are 0 to size - 1.
    """

    size: int

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, int32 [tokens]."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; those that are no text (a cut character) become U+FFFD."""
        ...

    def to_json(self) -> str:
        """All that is needed to make it again."""
        ...


class ByteVocabulary:
    """The bytes of UTF-8.

    Example:
      >>> ByteVocabulary().encode(["ab"])[0].tolist(), ByteVocabulary().decode([195, 164])
      ([97, 98], 'ä')
    """

    size = BYTES

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of bytes."""
        return bytes(int(token) for token in tokens).decode(errors="replace")

    def to_json(self) -> str:
        """What it is."""
        return json.dumps({"model": {"type": "bytes"}})


class PairVocabulary:
    """Byte pairs (BPE), learned by `learn`; a `tokenizers.Tokenizer` that reads bytes."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in found]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self._tokenizer.decode([int(token) for token in tokens])

    def to_json(self) -> str:
        """The file of `tokenizers`."""
        return self._tokenizer.to_str()


def learn(texts: Iterable[str], size: int) -> Vocabulary:
    """Makes the vocabulary of a size from the text of training.

    Args:
      texts: the text of training.
      size: number of tokens, at least 256. 256 are the bytes.

    Returns:
      The vocabulary; of a short text it may be smaller than asked for.

    Raises:
      ValueError: if it is too small to hold the bytes.
      ImportError: if `tokenizers` is missing.

    References:
      Sennrich, Haddow and Birch (2016), "Neural machine translation of rare words with subword
      units". Radford et al. (2019), section 2.2 (on bytes).
    """
    if size < BYTES:
        raise ValueError(f"vocabulary is at least {BYTES}, the number of bytes; got {size}.")
    if size == BYTES:
        return ByteVocabulary()
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"a vocabulary of {size} tokens needs the package tokenizers: pip install tokenizers "
            f"(vocabulary {BYTES}, bytes, needs none)"
        ) from error
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PairVocabulary(made)
