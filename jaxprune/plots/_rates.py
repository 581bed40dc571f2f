"""Learning rates of several schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune.plots._style import COLOURS, axes_of, line_style


def learning_rates(
    schedules: Mapping[str, Any],
    *,
    steps: int | None = None,
    logarithmic: bool = False,
    title: str = "",
    axes: Any = None,
) -> Any:
    """Draws learning rates over the steps of retraining, a line a schedule.

    Args:
      schedules: by name, learning rates ``[steps]`` or an `optax.Schedule`.
      steps: how many of each schedule; needed if one is a function.
      logarithmic: whether rates are drawn by their logarithm, and linearly below 1e-4.
      title: above the picture.
      axes: where to draw; a figure of its own if omitted.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if ``steps`` is missing.

    Example:
      >>> import optax
      >>> import jaxprune as jp
      >>> dense = optax.linear_schedule(0.1, 0.0, 100)
      >>> lengths = {"pretraining_steps": 100, "retraining_steps": 20}
      >>> picture = jp.plots.learning_rates(
      ...     {name: jp.schedules.retraining(name, dense, **lengths) for name in ("lrw", "llr")},
      ...     steps=20,
      ... )
      >>> [line.get_label() for line in picture.axes[0].lines]
      ['lrw', 'llr']
    """
    axes = axes_of(axes)
    for i, (name, rates) in enumerate(schedules.items()):
        if callable(rates):
            if steps is None:
                raise ValueError(
                    f"the schedule {name!r} is a function: pass steps=..., its length."
                )
            rates = rates(np.arange(steps))
        values = np.asarray(rates, np.float64)
        style = line_style(i)
        axes.plot(values, color=COLOURS[i % len(COLOURS)], linestyle=style, label=name)
    axes.set_xlabel("step of retraining")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("learning rate")
    if logarithmic:
        axes.set_yscale("symlog", linthresh=1e-4)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(title, fontsize=10)
    return axes.figure
