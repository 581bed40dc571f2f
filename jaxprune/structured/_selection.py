"""A selection: which channels stay, with notes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


class Selection(tuple[np.ndarray, ...]):
    """Which channels of each group stay: a tuple of bool arrays, with notes.

    Attributes:
      notes: what came out otherwise than asked for, in words: limits that were met, how a budget
        was hit.
    """

    notes: tuple[str, ...]

    def __new__(cls, kept: Iterable[Any], notes: Iterable[str] = ()) -> Selection:
        """Of arrays and notes."""
        self = super().__new__(cls, tuple(kept))
        self.notes = tuple(notes)
        return self

    def __reduce__(self) -> Any:
        """Pickled and copied with the notes."""
        return Selection, (tuple(self), self.notes)

    def report(self) -> str:
        """How many channels stay of each group, and the notes."""
        lines = [f"group {i}: {int(np.sum(k))} of {len(k)} channels" for i, k in enumerate(self)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.report()


# As a pytree it is the tuple that it is; a subclass would be one leaf.
jax.tree_util.register_pytree_node(
    Selection, lambda s: (tuple(s), s.notes), lambda notes, kept: Selection(kept, notes)
)
