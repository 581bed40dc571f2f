"""Two pictures of a run: accuracy and learning rate over steps, prunings marked."""

import bisect
import itertools
import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reports._files import written_whole
from experiments.reports._log import Log

# Blue, orange, green and grey of the Okabe-Ito palette, told apart by all eyes.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def draw(log: Log, folder: pathlib.Path, title: str) -> None:
    """Writes accuracy.png and learning_rate.png into ``folder``."""
    figure, axes = _figure(title, log)
    training = list(zip(log.steps, log.accuracies, strict=True))
    width = max(1, len(training) // 100)
    for i, part in enumerate(_between_prunings(training, log)):
        label = None if i else "training (running mean)"
        steps, values = _percent(part)
        axes.plot(steps, _running_mean(values, width), color=_BLUE, linewidth=1.2, label=label)
    # Validation is measured at the end of an epoch: the one at a pruning belongs before it.
    earlier = [(step - 1, accuracy) for step, accuracy in log.validation]
    for i, part in enumerate(_between_prunings(earlier, log)):
        label = None if i else "validation"
        axes.plot(*_percent(part), color=_ORANGE, linewidth=1.5, marker=".", label=label)
    if log.test:
        axes.plot(*_percent(log.test), "o", color=_GREEN, label="test, end of phase")
    if log.prunings:
        after = [(step, accuracy) for step, _, accuracy in log.prunings]
        axes.plot(*_percent(after), "v", color=_GREY, label="test, right after pruning")
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="lower right", fontsize=8)
    with written_whole(folder / "accuracy.png") as fresh:
        figure.savefig(fresh, dpi=150)

    figure, axes = _figure(title, log)
    axes.plot(log.steps, log.learning_rates, color=_BLUE, linewidth=1.5)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    with written_whole(folder / "learning_rate.png") as fresh:
        figure.savefig(fresh, dpi=150)


def _figure(title: str, log: Log) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("training step")
    axes.grid(alpha=0.25)
    axes.margins(y=0.09)  # room for the sparsities above the curves
    last = max(log.steps, default=0)
    for step, sparsity, _ in log.prunings:
        at_end = step > 0.93 * last  # where a label on the right would leave the picture
        axes.axvline(step, color=_GREY, linestyle="--", linewidth=0.9)
        axes.annotate(
            f"{100 * sparsity:.3g} %",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if at_end else 3, -3),
            horizontalalignment="right" if at_end else "left",
            textcoords="offset points",
            verticalalignment="top",
            fontsize=8,
            color=_GREY,
        )
    return figure, axes


def _percent(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [100 * value for _, value in points]


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
