"""Layers in the order in which one counts them."""

import re
from collections.abc import Iterable

from jaxprune.metrics import LeafSparsity


def in_natural_order(rows: Iterable[LeafSparsity]) -> list[LeafSparsity]:
    """Rows of layers by their paths, numbers as numbers: Block_2 before Block_10, as it is run."""

    def key(row: LeafSparsity) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", row.path)
        return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]

    return sorted(rows, key=key)
