"""Pictures of a run: accuracy and learning rate over steps, and sparsity per layer."""

import bisect
import itertools
import math
import pathlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

import jaxprune as jp
from experiments.reports._files import written_whole
from experiments.reports._log import Log
from experiments.reports._order import in_natural_order
from experiments.tasks import Measure

# Blue, orange, green and grey of the Okabe-Ito palette, told apart by all eyes.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
_SHIFT = 5  # points to the left or right of a pruning
_WIDE, _SHORT = 0.15, 0.075  # of the width: a label of a sparsity in words, and as a number


def draw(log: Log, folder: pathlib.Path, title: str) -> None:
    """Writes accuracy.png (or what the task has instead) and learning_rate.png into ``folder``."""
    figure, axes = _figure(title, log)
    curve = log.kind.curve
    training = list(zip(log.steps, log.accuracies, strict=True))
    width = max(1, len(training) // 100)
    seen: list[float] = []
    for i, part in enumerate(_between_prunings(training, log)):
        label = None if i else "training (running mean)"
        steps, values = _scaled(part, curve)
        mean = _running_mean(values, width)
        seen += mean[len(mean) // 10 :].tolist()
        axes.plot(steps, mean, color=_BLUE, linewidth=1.2, label=label)
    # Validation is measured at the end of an epoch: the one at a pruning belongs before it.
    earlier = [(step - 1, accuracy) for step, accuracy in log.validation]
    for i, part in enumerate(_between_prunings(earlier, log)):
        label = None if i else "validation"
        steps, values = _scaled(part, curve)
        seen += values[len(values) // 10 :]
        axes.plot(steps, values, color=_ORANGE, linewidth=1.5, marker=".", label=label)
    # Before and after a pruning are the same step: beside each other, one does not hide the other.
    for points, marker, color, label, shift in (
        (log.test, "o", _GREEN, "test, end of phase", -_SHIFT),
        ([(s, a) for s, _, a in log.prunings], "v", _GREY, "test, right after pruning", _SHIFT),
    ):
        if points:
            steps, values = _scaled(points, curve)
            seen += values
            place = offset_copy(axes.transData, figure, x=shift, units="points")
            axes.plot(steps, values, marker, color=color, label=label, transform=place, zorder=3)
    axes.set_ylim(*_zoom(seen))
    axes.set_ylabel(f"{curve.label} ({curve.unit})" if curve.unit else curve.label)
    axes.legend(loc="best", fontsize=8)
    with written_whole(folder / f"{curve.name}.png") as fresh:
        figure.savefig(fresh, dpi=150)

    figure, axes = _figure(title, log)
    axes.plot(log.steps, log.learning_rates, color=_BLUE, linewidth=1.5)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    with written_whole(folder / "learning_rate.png") as fresh:
        figure.savefig(fresh, dpi=150)


def draw_layers(mask: Any, path: pathlib.Path, title: str) -> None:
    """Draws the sparsity of each prunable layer, a bar each, and that of all together.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.
      path: the picture to write, e.g. ``sparsity.png``.
      title: above it.
    """
    rows = in_natural_order(jp.metrics.sparsity_per_leaf(mask))
    values = [100 * row.sparsity for row in rows]
    kept, size = sum(row.kept for row in rows), sum(row.size for row in rows)
    whole = 100 * (size - kept) / max(size, 1)
    figure = Figure(figsize=(7.5, 1.3 + 0.22 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(rows)), values, color=_BLUE, height=0.7)
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
    axes.axvline(whole, color=_ORANGE, linestyle="--")
    axes.set_yticks(range(len(rows)), [row.path for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"sparsity: weights removed (%); dashed: all layers, {whole:.2f} %")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    with written_whole(path) as fresh:
        figure.savefig(fresh, dpi=150)


def _zoom(values: list[float]) -> tuple[float, float]:
    """Limits that show the points, with room for the sparsities above them."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=100.0)
    span = max(high - low, 1.0)
    return max(low - 0.06 * span, -1.0), high + 0.14 * span


def _figure(title: str, log: Log) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("training step")
    axes.grid(alpha=0.25)
    axes.margins(y=0.14)  # room for the sparsities above the curves
    last = max(log.steps, default=0)
    prunings = [step for step, _, _ in log.prunings]
    gaps = (later - earlier for earlier, later in itertools.pairwise(prunings))
    room = min(gaps, default=math.inf) / max(last, 1)
    # Where a label on the right would leave the picture it is on the left, beside the one before.
    at_end = max(prunings, default=0) > 0.85 * last
    in_words = room >= (2 if at_end else 1) * _WIDE
    if not in_words:
        axes.set_xlabel("training step (dashed: prunings, and the sparsity after them)")
    # The last one has its label whatever happens.
    every = 1 if in_words else max(1, math.ceil(_SHORT / max(room, 1e-3)))
    labelled = set(prunings[::-every])
    for step, sparsity, _ in log.prunings:
        axes.axvline(step, color=_GREY, linestyle="--", linewidth=0.9)
        if step not in labelled:
            continue
        side = "center" if not in_words else "right" if step > 0.85 * last else "left"
        axes.annotate(
            f"{100 * sparsity:.4g} % sparse" if in_words else f"{100 * sparsity:.3g} %",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=({"left": 3, "center": 0, "right": -3}[side], -3),
            horizontalalignment=side,
            textcoords="offset points",
            verticalalignment="top",
            fontsize=8,
            color=_GREY,
            bbox=None if in_words else {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    return figure, axes


def _scaled(points: list[tuple[int, float]], measure: Measure) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [measure.scale * value for _, value in points]


def _between_prunings(points: list[tuple[int, float]], log: Log) -> list[list[tuple[int, float]]]:
    """Cuts a curve at the prunings: a drop must not be hidden by a line across it."""
    steps = [step for step, _ in points]
    cuts = [bisect.bisect_left(steps, step) for step, _, _ in log.prunings]
    edges = itertools.pairwise([0, *cuts, len(points)])
    return [points[start:stop] for start, stop in edges if stop > start]


def _running_mean(values: list[float], width: int) -> np.ndarray:
    """Mean of each value and up to ``width - 1`` before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - width)
    return (total[last] - total[first]) / (last - first)
