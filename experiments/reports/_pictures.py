"""Two pictures of a run: accuracy and learning rate over steps, prunings marked."""

import itertools
import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reports._log import Log

# Blue, orange, green and grey of the Okabe-Ito palette, told apart by all eyes.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def draw(log: Log, folder: pathlib.Path, title: str) -> None:
    """Writes accuracy.png and learning_rate.png into ``folder``."""
    figure, axes = _figure(title, log)
    steps, smooth = _smooth(log)
    axes.plot(steps, smooth, color=_BLUE, linewidth=1.2, label="training (running mean)")
    if log.validation:
        axes.plot(*_percent(log.validation), color=_ORANGE, linewidth=1.5, label="validation")
    if log.test:
        axes.plot(*_percent(log.test), "o", color=_GREEN, label="test, end of phase")
    if log.prunings:
        after = [(step, accuracy) for step, _, accuracy in log.prunings]
        axes.plot(*_percent(after), "v", color=_GREY, label="test, right after pruning")
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(folder / "accuracy.png", dpi=150)

    figure, axes = _figure(title, log)
    axes.plot(log.steps, log.learning_rates, color=_BLUE, linewidth=1.5)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    figure.savefig(folder / "learning_rate.png", dpi=150)


def _figure(title: str, log: Log) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("training step")
    axes.grid(alpha=0.25)
    axes.margins(y=0.09)  # room for the sparsities above the curves
    for step, sparsity, _ in log.prunings:
        axes.axvline(step, color=_GREY, linestyle="--", linewidth=0.9)
        axes.annotate(
            f"{100 * sparsity:.3g} %",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            verticalalignment="top",
            fontsize=8,
            color=_GREY,
        )
    return figure, axes


def _percent(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [100 * value for _, value in points]


def _smooth(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """Running mean of the training accuracy, not across prunings: a drop must stay visible."""
    steps = np.asarray(log.steps)
    values = 100 * np.asarray(log.accuracies)
    out = np.full(len(values), np.nan)
    width = max(1, len(values) // 100)
    edges = [0, *np.searchsorted(steps, [step for step, _, _ in log.prunings]), len(values)]
    for start, stop in itertools.pairwise(edges):
        total = np.concatenate([[0.0], np.cumsum(values[start:stop])])
        for i in range(stop - start):
            low = max(0, i + 1 - width)
            out[start + i] = (total[i + 1] - total[low]) / (i + 1 - low)
        if stop > start and stop < len(values):
            out[stop - 1] = np.nan  # breaks the line at the pruning
    return steps, out
