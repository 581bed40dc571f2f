"""Options that are one of a few words."""

from collections.abc import Iterable
from typing import Any


def check_choice(name: str, value: Any, choices: Iterable[Any], *, hint: str = "") -> None:
    """Raises if an option is none of its words.

    Raises:
      ValueError: naming them.
    """
    words = list(choices)
    if value not in words:
        more = f", {hint}" if hint else ""
        raise ValueError(f"{name} is one of {', '.join(map(repr, words))}{more}; got {value!r}.")
