"""A mask beside its weights: a table of sparsity per layer, and a histogram of the weights."""

import pathlib
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.reports._files import written_whole
from experiments.reports._fitting import print_fitting
from jaxprune import _tree

_BAR = 20
_COLUMNS: tuple[str, ...] = ("layer", "shape", "kept", "size", "sparsity", "bar")
_PATH = 24  # characters of a path that are not folded


def print_mask_table(params: Any, mask: Any, console: Console) -> None:
    """Prints the sparsity of each prunable layer.

    Args:
      params: the parameters of the mask.
      mask: a mask, True = kept, `None` where a leaf is not prunable.
      console: where the table goes.

    Raises:
      ValueError: if the mask is of other parameters; the message names the path.
    """
    _tree.check_matches(mask, params)
    shapes = {path: np.shape(leaf) for path, leaf in _tree.named_leaves(mask)}
    rows = jp.plots.in_natural_order(jp.metrics.sparsity_per_leaf(mask))
    kept, size = sum(row.kept for row in rows), sum(row.size for row in rows)
    whole = (size - kept) / max(size, 1)

    def make(gone: frozenset[str]) -> Table:
        out = Table(title="Sparsity per layer", title_justify="left")
        names = [name for name in _COLUMNS if name not in gone]
        for name in names:
            header = "" if name == "bar" else name
            left = name in ("layer", "bar")
            # Only a path may be folded.
            out.add_column(
                header,
                justify="left" if left else "right",
                no_wrap=name != "layer",
                overflow="fold",
            )

        def add(cells: tuple[str, ...], style: str | None = None) -> None:
            held: dict[str, str] = dict(zip(_COLUMNS, cells, strict=True))
            out.add_row(*(held[name] for name in names), style=style)

        for row in rows:
            shape = " x ".join(map(str, shapes[row.path])) or "scalar"
            add((row.path, shape, *_numbers(row.kept, row.size), _bar(row.sparsity)))
        out.add_section()
        add(("all prunable", "", *_numbers(kept, size), _bar(whole)), style="bold")
        return out

    folds = max(0, max((len(row.path) for row in rows), default=0) - _PATH)
    print_fitting(console, make, ("bar", "shape", "size", "kept"), folds=folds)


def draw_weight_histogram(
    params: Any, mask: Any, path: pathlib.Path, *, before: Any = None
) -> None:
    """Draws how the prunable weights are spread, see `jaxprune.plots.weights`.

    Args:
      params: the parameters after pruning (and retraining).
      mask: their mask.
      path: the picture to write, e.g. ``weights.png``.
      before: the parameters before the last prune; without them only the kept weights are drawn.

    Raises:
      ValueError: if the mask is of other parameters; the message names the path.
    """
    figure = jp.plots.weights(params, mask, before=before)
    with written_whole(path) as fresh:
        figure.savefig(fresh, dpi=150)


def _numbers(kept: int, size: int) -> tuple[str, str, str]:
    return f"{kept:,}", f"{size:,}", f"{100 * (size - kept) / max(size, 1):.2f} %"


def _bar(sparsity: float) -> str:
    """What is removed, as a bar; only a whole layer fills it, only an untouched one is empty."""
    full = round(_BAR * sparsity)
    if 0 < sparsity < 1:
        full = min(max(full, 1), _BAR - 1)
    return "█" * full + "░" * (_BAR - full)
