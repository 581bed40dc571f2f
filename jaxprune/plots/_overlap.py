"""How much several masks agree, as a table of colours."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune import metrics
from jaxprune._tree import PyTree
from jaxprune.plots._style import axes_of


def overlap(masks: Mapping[str, PyTree], *, title: str = "", axes: Any = None) -> Any:
    """Draws for each pair of masks the intersection over union of the weights that they keep.

    Args:
      masks: masks of the same parameters, by name; at least two.
      title: above the picture.
      axes: where to draw; a figure of its own if omitted.

    Returns:
      The figure. Two random masks of density d have about ``d / (2 - d)``.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there are fewer than two masks, or two are of different trees.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, True])}
      >>> [text.get_text() for text in jp.plots.overlap({"a": a, "b": b}).axes[0].texts]
      ['1.00', '0.33', '0.33', '1.00']
    """
    names = list(masks)
    if len(names) < 2:
        raise ValueError(f"an overlap is one of at least two masks; got {names}.")
    values = np.eye(len(names))
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        values[i, j] = values[j, i] = metrics.iou(masks[a], masks[b])
    side = 1.8 + 0.7 * len(names)
    axes = axes_of(axes, side + 1.2, side)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 else "black"
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title, fontsize=10)
    axes.figure.colorbar(image, ax=axes, label="intersection over union of what is kept")
    return axes.figure
