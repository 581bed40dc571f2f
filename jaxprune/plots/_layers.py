"""The sparsity of each layer as a bar."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from jaxprune import metrics
from jaxprune._tree import PyTree
from jaxprune.metrics import LeafSparsity
from jaxprune.plots._style import BLUE, ORANGE, axes_of


def layers(mask: PyTree, *, title: str = "", axes: Any = None) -> Any:
    """Draws the sparsity of each prunable layer, a bar each, and that of all together.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.
      title: above the picture.
      axes: where to draw; a figure of its own if omitted, higher the more layers there are.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      TypeError: if a leaf of the mask is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> _, mask = jp.prune({"kernel": jnp.arange(8.0).reshape(2, 4)}, 0.5)
      >>> picture = jp.plots.layers(mask)
      >>> picture.axes[0].get_xlabel()
      'sparsity: weights removed (%); dashed: all layers, 50.00 %'
    """
    rows = in_natural_order(metrics.sparsity_per_leaf(mask))
    values = [100 * row.sparsity for row in rows]
    kept, size = sum(row.kept for row in rows), sum(row.size for row in rows)
    whole = 100 * (size - kept) / max(size, 1)
    axes = axes_of(axes, 7.5, 1.3 + 0.22 * len(rows))
    axes.barh(range(len(rows)), values, color=BLUE, height=0.7)
    for place, row in enumerate(rows):
        label = f"{values[place]:.2f} %, {row.kept:,} of {row.size:,} left"
        # At the start of a long bar, beside a short one.
        inside = values[place] > 50
        axes.annotate(
            label,
            (0 if inside else values[place], place),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=7,
            color="white" if inside else "black",
            # Where the line crosses it, it stays readable.
            bbox=None if inside else {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    axes.axvline(whole, color=ORANGE, linestyle="--")
    axes.set_yticks(range(len(rows)), [row.path for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"sparsity: weights removed (%); dashed: all layers, {whole:.2f} %")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    return axes.figure


def in_natural_order(rows: Iterable[LeafSparsity]) -> list[LeafSparsity]:
    """Rows of layers by their paths, numbers as numbers: Block_2 before Block_10, as it is run."""

    def key(row: LeafSparsity) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", row.path)
        return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]

    return sorted(rows, key=key)
