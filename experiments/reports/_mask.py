"""A mask beside its weights: a table of sparsity per layer, and a histogram of the weights."""

import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.reports._files import written_whole
from experiments.reports._fitting import print_fitting
from experiments.reports._order import in_natural_order
from jaxprune import _tree

# Blue and orange of the Okabe-Ito palette, told apart by all eyes, and two greys.
_BLUE, _ORANGE, _GREY, _LIGHT = "#0072B2", "#D55E00", "#777777", "#CCCCCC"
_BINS = 120
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
    rows = in_natural_order(jp.metrics.sparsity_per_leaf(mask))
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
    """Draws how the prunable weights of a network are spread, before and after pruning.

    The dashed lines are at plus and minus the smallest absolute value of a weight that is kept: of
    the weights ``before``, if given, else of ``params``. Right after a global magnitude prune of
    ``before`` that is its threshold. Weights that are NaN or infinite are counted in the legend,
    not drawn.

    Args:
      params: the parameters after pruning (and retraining).
      mask: their mask.
      path: the picture to write, e.g. ``weights.png``.
      before: the parameters before the last prune; without them only the kept weights are drawn.

    Raises:
      ValueError: if the mask is of other parameters; the message names the path.
    """
    now = _kept(_weights(params, mask), mask)
    earlier = [] if before is None else _weights(before, mask)
    kept_earlier = _kept(earlier, mask) if earlier else []
    # What earlier prunes took is no weight any more.
    everything = [w[w != 0] for w in earlier]
    n_before = sum(w.size for w in everything)
    n_kept, n_all = jp.metrics.counts(mask)

    magnitudes = [np.abs(w[np.isfinite(w)]) for w in kept_earlier or now]
    threshold = min((float(w.min()) for w in magnitudes if w.size), default=None)
    edges = _edges([*now, *everything], threshold)

    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    label = f"the {n_kept:,} kept, now" if everything else f"the {n_kept:,} kept"
    for weights, name, style in (
        (
            everything,
            f"all {n_before:,} before the last prune",
            {"fill": True, "color": _LIGHT},
        ),
        (kept_earlier, f"the {n_kept:,} kept, before it", {"color": _ORANGE, "linewidth": 1.3}),
        (now, label, {"color": _BLUE, "linewidth": 1.3}),
    ):
        if weights:
            lost = sum(int(np.count_nonzero(~np.isfinite(w))) for w in weights)
            note = f" ({lost:,} NaN or infinite)" if lost else ""
            counts = _histogram(weights, edges)
            axes.stairs(counts, edges, label=name + note, **style)
            if counts.any():
                axes.set_yscale("log")
    if threshold is not None:
        style = {"color": _GREY, "linestyle": "--", "linewidth": 0.9}
        when = ", before the last prune" if kept_earlier else ""
        axes.axvline(-threshold, label=f"smallest |w| kept{when}: {threshold:.3g}", **style)
        axes.axvline(threshold, **style)
    # One weight is a bar of visible height, and the legend hides none.
    axes.set_ylim(0.7, 20 * axes.get_ylim()[1])
    removed = 100 * (n_all - n_kept) / max(n_all, 1)
    axes.set_title(f"prunable weights, {removed:.2f} % removed", fontsize=10)
    axes.set_xlabel("weight")
    axes.set_ylabel("number of weights")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize=8)
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


def _weights(params: Any, mask: Any) -> list[np.ndarray]:
    """The values of each prunable leaf, on the host."""
    _tree.check_matches(mask, params)
    values = dict(_tree.named_leaves(params))
    picked = jax.device_get([values[path] for path, _ in _tree.named_leaves(mask)])
    return [np.asarray(leaf).astype(np.float32) for leaf in picked]


def _kept(weights: list[np.ndarray], mask: Any) -> list[np.ndarray]:
    return [w[m] for w, m in zip(weights, jax.device_get(jax.tree.leaves(mask)), strict=True)]


def _edges(weights: list[np.ndarray], threshold: float | None) -> np.ndarray:
    """Edges of bins of one width around 0; the threshold is one of them unless it is tiny."""
    limit = max((float(np.abs(w[np.isfinite(w)]).max(initial=0.0)) for w in weights), default=0.0)
    limit = limit or 1.0
    width = 2 * limit / _BINS
    if threshold is not None and threshold > width / 2:
        # A hair below, so that the smallest kept weight falls outside on both sides.
        width = threshold * (1 - 1e-6) / round(threshold / width)
    n = int(limit / width) + 1
    return width * np.arange(-n, n + 1)


def _histogram(weights: Iterable[np.ndarray], edges: np.ndarray) -> np.ndarray:
    finite = (w[np.isfinite(w)] for w in weights)
    return sum((np.histogram(w, edges)[0] for w in finite), np.zeros(len(edges) - 1, np.int64))
