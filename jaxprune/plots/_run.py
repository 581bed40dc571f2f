"""Accuracy and learning rate over the steps of a run."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.plots._style import BLUE, GREEN, GREY, ORANGE, axes_of, figure
from jaxprune.training import PhaseRecord

_SHIFT = 5  # points to the left or right of a pruning
_WIDE, _SHORT = 0.15, 0.075  # of the width: a label of a sparsity in words, and as a number


class Curves(NamedTuple):
    """A run as it is drawn: curves by training step.

    Attributes:
      steps: step of each training row.
      learning_rates: the rate used at each.
      values: what is drawn upwards (accuracy, say) of the batch at each; may be empty.
      validation: (step, the same of a validation set), e.g. at the end of every epoch.
      test: (step, the same of a test set) at the end of every phase.
      prunings: (step, sparsity after it, the same of the test set right after it).
    """

    steps: Sequence[int]
    learning_rates: Sequence[float]
    values: Sequence[float] = ()
    validation: Sequence[tuple[int, float]] = ()
    test: Sequence[tuple[int, float]] = ()
    prunings: Sequence[tuple[int, float, float]] = ()

    @classmethod
    def of(cls, result: Any, metric: str = "accuracy") -> Curves:
        """The curves of a result of `jaxprune.training`, or of records.

        Args:
          result: anything with ``records``, or a sequence of `jaxprune.training.PhaseRecord`.
          metric: the entry of the evaluations, and of the training metrics if it is there.

        Returns:
          The curves. There is no validation in records.

        Raises:
          ValueError: if no evaluation has this metric; with those that there are.
        """
        records: Sequence[PhaseRecord] = getattr(result, "records", result)
        known = list(dict.fromkeys(name for record in records for name in record.evaluation))
        if metric not in known:
            raise ValueError(f"no phase was evaluated by {metric!r}; there are {known}.")
        steps, rates, values = [], [], []
        test, prunings, at = [], [], 0
        trained = [record for record in records if len(record.learning_rates)]
        drawn = all(metric in record.metrics for record in trained)
        for record in records:
            # Counted here: after a step back the counter of the state is ahead.
            if record.evaluation_pruned is not None and metric in record.evaluation_pruned:
                prunings.append((at, record.sparsity, record.evaluation_pruned[metric]))
            n = len(record.learning_rates)
            steps += range(at, at + n)
            rates += record.learning_rates.tolist()
            values += record.metrics[metric].tolist() if drawn and n else []
            at += n
            if n or record.evaluation_pruned is None:
                test.append((at, record.evaluation[metric]))
        return cls(steps, rates, values, (), test, prunings)


def run(
    result: Any,
    *,
    metric: str = "accuracy",
    scale: float = 100.0,
    unit: str = "%",
    title: str = "",
) -> Any:
    """Draws accuracy, and below it the learning rate, over the steps of a run.

    Args:
      result: of `imp`, `bimp`, `structured_imp` or `fit`, their records, or `Curves`.
      metric: what is drawn upwards; see `Curves.of`.
      scale: what it is multiplied with to be shown.
      unit: of the product.
      title: above the picture.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there is no such metric.
    """
    made = figure(7.5, 6.0, rows=2)
    upper, lower = made.axes
    accuracy(result, metric=metric, scale=scale, unit=unit, title=title, axes=upper)
    learning_rate(result, metric=metric, axes=lower)
    upper.set_xlabel("")
    lower.set_xlim(upper.get_xlim())
    return made


def accuracy(
    result: Any,
    *,
    metric: str = "accuracy",
    label: str | None = None,
    scale: float = 100.0,
    unit: str = "%",
    title: str = "",
    axes: Any = None,
) -> Any:
    """Draws accuracy, or another metric, over the steps of a run, with its prunings.

    Args:
      result: of `imp`, `bimp`, `structured_imp` or `fit`, their records, or `Curves`.
      metric: the metric of a result or of records; see `Curves.of`.
      label: its name in the picture; ``metric`` if omitted.
      scale: what it is multiplied with to be shown.
      unit: of the product.
      title: above the picture.
      axes: where to draw; a figure of its own if omitted.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there is no such metric.
    """
    from matplotlib.transforms import offset_copy

    curves = result if isinstance(result, Curves) else Curves.of(result, metric)
    name = metric if label is None else label
    axes = _over_steps(axes_of(axes), curves, title)
    training = list(zip(curves.steps, curves.values, strict=bool(curves.values)))
    width = max(1, len(training) // 100)
    seen: list[float] = []
    for i, part in enumerate(_between_prunings(training, curves)):
        label = None if i else "training (running mean)"
        steps, values = _scaled(part, scale)
        mean = _running_mean(values, width)
        seen += mean[len(mean) // 10 :].tolist()
        axes.plot(steps, mean, color=BLUE, linewidth=1.2, label=label)
    # Validation is measured at the end of an epoch: the one at a pruning belongs before it.
    earlier = [(step - 1, accuracy) for step, accuracy in curves.validation]
    for i, part in enumerate(_between_prunings(earlier, curves)):
        label = None if i else "validation"
        steps, values = _scaled(part, scale)
        seen += values[len(values) // 10 :]
        axes.plot(steps, values, color=ORANGE, linewidth=1.5, marker=".", label=label)
    # Before and after a pruning are the same step: beside each other, one does not hide the other.
    for points, marker, color, label, shift in (
        (curves.test, "o", GREEN, "test, end of phase", -_SHIFT),
        ([(s, a) for s, _, a in curves.prunings], "v", GREY, "test, right after pruning", _SHIFT),
    ):
        if points:
            steps, values = _scaled(points, scale)
            seen += values
            place = offset_copy(axes.transData, axes.figure, x=shift, units="points")
            axes.plot(steps, values, marker, color=color, label=label, transform=place, zorder=3)
    axes.set_ylim(*_zoom(seen))
    axes.set_ylabel(f"{name} ({unit})" if unit else name)
    axes.legend(loc="best", fontsize=8)
    return axes.figure


def learning_rate(
    result: Any, *, metric: str = "accuracy", title: str = "", axes: Any = None
) -> Any:
    """Draws the learning rate over the steps of a run, with its prunings.

    Args:
      result: of `imp`, `bimp`, `structured_imp` or `fit`, their records, or `Curves`.
      metric: as of `accuracy`.
      title: above the picture.
      axes: where to draw; a figure of its own if omitted.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there is no such metric.
    """
    curves = result if isinstance(result, Curves) else Curves.of(result, metric)
    axes = _over_steps(axes_of(axes), curves, title)
    axes.plot(curves.steps, curves.learning_rates, color=BLUE, linewidth=1.5)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    return axes.figure


def _zoom(values: list[float]) -> tuple[float, float]:
    """Limits that show the points, with room for the sparsities above them."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=100.0)
    span = max(high - low, 1.0)
    return max(low - 0.06 * span, -1.0), high + 0.14 * span


def _over_steps(axes: Any, curves: Curves, title: str) -> Any:
    """Axes over the steps of a run, with its prunings."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("training step")
    axes.grid(alpha=0.25)
    axes.margins(y=0.14)  # room for the sparsities above the curves
    last = max(curves.steps, default=0)
    prunings = [step for step, _, _ in curves.prunings]
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
    for step, sparsity, _ in curves.prunings:
        axes.axvline(step, color=GREY, linestyle="--", linewidth=0.9)
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
            color=GREY,
            bbox=None if in_words else {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    return axes


def _scaled(points: Sequence[tuple[int, float]], scale: float) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [scale * value for _, value in points]


def _between_prunings(
    points: list[tuple[int, float]], curves: Curves
) -> list[list[tuple[int, float]]]:
    """Cuts a curve at the prunings: a drop must not be hidden by a line across it."""
    steps = [step for step, _ in points]
    cuts = [bisect.bisect_left(steps, step) for step, _, _ in curves.prunings]
    edges = itertools.pairwise([0, *cuts, len(points)])
    return [points[start:stop] for start, stop in edges if stop > start]


def _running_mean(values: list[float], width: int) -> np.ndarray:
    """Mean of each value and up to ``width - 1`` before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - width)
    return (total[last] - total[first]) / (last - first)
