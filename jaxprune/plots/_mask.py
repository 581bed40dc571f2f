"""A mask as a picture: which weights of each layer are left."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._mask import check_bool
from jaxprune._tree import PyTree
from jaxprune.plots._style import figure

_PIXELS = 256  # of a layer, in each direction
_ACROSS = 4  # layers side by side


def mask(mask: PyTree, *, most: int = 12, title: str = "") -> Any:
    r"""Draws the mask of each prunable layer: what is kept is dark.

    A layer is drawn as a matrix: its last axis (output units, in Flax and Haiku) to the right, all
    others downwards in C order, so that a filter is a column. Of a layer with more than 256 rows or
    columns, a pixel is the fraction kept of the weights that it covers.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.
      most: layers that are drawn; the first ones, in `jax.tree.leaves` order.
      title: above the picture.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      TypeError: if a leaf of the mask is not boolean.
      ValueError: if there is no prunable layer.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> _, mask = jp.prune({"kernel": jnp.arange(8.0).reshape(2, 4)}, 0.5)
      >>> jp.plots.mask(mask).axes[0].get_title()
      'kernel\n2x4, 50.00 % removed'
    """
    check_bool(mask)
    named = _tree.named_leaves(mask)
    if not named:
        raise ValueError("the mask has no prunable layer, so there is nothing to draw.")
    shown = named[:most]
    across = min(_ACROSS, len(shown))
    rows = -(-len(shown) // across)
    made = figure(2.6 * across + 0.8, 2.9 * rows + 0.3, rows, across)
    image: Any = None
    for axes, (path, leaf) in zip(made.axes, shown, strict=False):
        flags = np.asarray(jax.device_get(leaf))
        matrix = flags.reshape(-1, flags.shape[-1] if flags.ndim else 1)
        image = axes.imshow(
            _small(matrix), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest",
            extent=(0, matrix.shape[1], matrix.shape[0], 0),
        )  # fmt: skip
        shape = "x".join(map(str, flags.shape)) or "scalar"
        removed = 100 * (1 - np.count_nonzero(flags) / max(flags.size, 1))
        axes.set_title(f"{path}\n{shape}, {removed:.2f} % removed", fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_xlabel("last axis", fontsize=7)
    for axes in made.axes[len(shown) :]:
        axes.remove()
    made.colorbar(image, ax=made.axes, label="fraction kept")
    left = len(named) - len(shown)
    note = f"the first {len(shown)} of {len(named)} layers" if left else ""
    made.suptitle(", ".join(part for part in (title, note) if part), fontsize=10)
    return made


def _small(matrix: np.ndarray) -> np.ndarray:
    """The fraction kept of what each pixel covers, float64 ``[at most 256, at most 256]``."""
    values = matrix.astype(np.float64)
    for axis in (0, 1):
        n = values.shape[axis]
        if n > _PIXELS:
            starts = np.arange(_PIXELS) * n // _PIXELS
            sums = np.add.reduceat(values, starts, axis)
            width = np.diff(np.append(starts, n))
            values = sums / (width[:, None] if axis == 0 else width[None])
    return values
