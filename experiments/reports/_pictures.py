"""Pictures of a run: accuracy and learning rate over steps, and sparsity per layer."""

import pathlib
from typing import Any

import jaxprune as jp
from experiments.reports._files import written_whole
from experiments.reports._log import Log


def draw(log: Log, folder: pathlib.Path, title: str) -> None:
    """Writes accuracy.png (or what the task has instead) and learning_rate.png into ``folder``."""
    curves = jp.plots.Curves(
        log.steps, log.learning_rates, log.accuracies, log.validation, log.test, log.prunings
    )
    curve = log.kind.curve
    shown = jp.plots.accuracy(
        curves, label=curve.label, scale=curve.scale, unit=curve.unit, title=title
    )
    _save(shown, folder / f"{curve.name}.png")
    _save(jp.plots.learning_rate(curves, title=title), folder / "learning_rate.png")


def draw_layers(mask: Any, path: pathlib.Path, title: str) -> None:
    """Draws the sparsity of each prunable layer, a bar each, and that of all together.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.
      path: the picture to write, e.g. ``sparsity.png``.
      title: above it.
    """
    _save(jp.plots.layers(mask, title=title), path)


def _save(figure: Any, path: pathlib.Path) -> None:
    with written_whole(path) as fresh:
        figure.savefig(fresh, dpi=150)
