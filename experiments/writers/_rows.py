"""From rows of metrics.jsonl to numbers by name."""

from collections.abc import Mapping
from typing import Any, Protocol

# Of the rows: what says where they belong.
_PLACES = ("kind", "step", "first_step", "cycle")


class Writer(Protocol):
    """What takes the numbers of a run as it goes on."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers by name, at a training step."""
        ...

    def close(self) -> None:
        """Makes sure that all is kept."""
        ...


def scalars(row: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """The step of a row of metrics.jsonl, and its numbers by names such as "validation/accuracy".

    What is no number (names of phases, null) is left out.

    Example:
        >>> scalars({"kind": "validation", "cycle": 0, "step": 40, "validation_accuracy": 0.9})
        (40, {'validation/accuracy': 0.9})
    """
    kind = row["kind"]
    values = {
        f"{kind}/{name.removeprefix(kind + '_')}": float(value)
        for name, value in row.items()
        if name not in _PLACES and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return int(row["step"]), values
