"""How the weights of a network are spread, with the threshold of a prune."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxprune import _tree, metrics
from jaxprune._tree import PyTree
from jaxprune.plots._style import BLUE, GREY, LIGHT, ORANGE, axes_of

_BINS = 120


def weights(
    params: PyTree,
    mask: PyTree,
    *,
    before: PyTree | None = None,
    title: str | None = None,
    axes: Any = None,
) -> Any:
    """Draws how the prunable weights of a network are spread, before and after pruning.

    The dashed lines are at plus and minus the smallest absolute value of a weight that is kept: of
    the weights ``before``, if given, else of ``params``. Right after a global magnitude prune of
    ``before`` that is its threshold. Weights that are NaN or infinite are counted in the legend,
    not drawn.

    Args:
      params: the parameters after pruning (and retraining).
      mask: their mask.
      before: the parameters before the last prune; without them only the kept weights are drawn.
      title: above the picture; how much is removed, if omitted.
      axes: where to draw; a figure of its own if omitted.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if the mask is of other parameters; the message names the path.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.array([[1.0, -2.0, 3.0, 4.0]])}
      >>> pruned, mask = jp.prune(params, 0.5)
      >>> jp.plots.weights(pruned, mask, before=params).axes[0].get_title()
      'prunable weights, 50.00 % removed'
    """
    now = _kept(_weights(params, mask), mask)
    earlier = [] if before is None else _weights(before, mask)
    kept_earlier = _kept(earlier, mask) if earlier else []
    # What earlier prunes took is no weight any more.
    everything = [w[w != 0] for w in earlier]
    n_before = sum(w.size for w in everything)
    n_kept, n_all = metrics.counts(mask)

    magnitudes = [np.abs(w[np.isfinite(w)]) for w in kept_earlier or now]
    threshold = min((float(w.min()) for w in magnitudes if w.size), default=None)
    edges = _edges([*now, *everything], threshold)

    axes = axes_of(axes)
    label = f"the {n_kept:,} kept, now" if everything else f"the {n_kept:,} kept"
    for weights, name, style in (
        (
            everything,
            f"all {n_before:,} before the last prune",
            {"fill": True, "color": LIGHT},
        ),
        (kept_earlier, f"the {n_kept:,} kept, before it", {"color": ORANGE, "linewidth": 1.3}),
        (now, label, {"color": BLUE, "linewidth": 1.3}),
    ):
        if weights:
            lost = sum(int(np.count_nonzero(~np.isfinite(w))) for w in weights)
            note = f" ({lost:,} NaN or infinite)" if lost else ""
            counts = _histogram(weights, edges)
            axes.stairs(counts, edges, label=name + note, **style)
            if counts.any():
                axes.set_yscale("log")
    if threshold is not None:
        style = {"color": GREY, "linestyle": "--", "linewidth": 0.9}
        when = ", before the last prune" if kept_earlier else ""
        axes.axvline(-threshold, label=f"smallest |w| kept{when}: {threshold:.3g}", **style)
        axes.axvline(threshold, **style)
    # One weight is a bar of visible height, and the legend hides none.
    axes.set_ylim(0.7, 20 * axes.get_ylim()[1])
    removed = 100 * (n_all - n_kept) / max(n_all, 1)
    said = f"prunable weights, {removed:.2f} % removed"
    axes.set_title(said if title is None else title, fontsize=10)
    axes.set_xlabel("weight")
    axes.set_ylabel("number of weights")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize=8)
    return axes.figure


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
