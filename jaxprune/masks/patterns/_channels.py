"""Channels: all weights of one index along an axis stay or go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprune.masks.patterns._pattern import Norm, Pattern, PatternSpec, check_words


def channels(axis: int | Callable[[str, Any], int] = -1, *, norm: Norm = "l1") -> Pattern:
    """Keeps or removes whole filters or channels of each leaf.

    The unit of every count is a channel: exactly ``round(sparsity * channels)`` channels go. Each
    leaf is masked for itself; biases, norms and the layers that read the channel are not touched.

    With magnitudes as scores, ``norm="l1"`` and ``"l2"`` are the filter norms. Where all scores
    of a channel are equal, as of `jaxprune.scores.geometric_median` and
    `jaxprune.scores.batch_norm_scale`, ``norm="max"`` is the right one: it gives the channel that
    very score, where sums weigh it by the size of the channel and means round it.

    A leaf without a weight, of shape (0, 4) say, stays as it is.

    Args:
      axis: the axis of the channels, or a function ``(path, leaf) -> axis``; negative from the
        last. The default, -1, is the output channel in Flax and Haiku; Equinox has it at 0.
      norm: how the scores of a channel become one: "l1" (sum), "l2", "max" or "mean". Where leaves
        of several sizes share one threshold, sums favour large channels; "mean" does not.

    Returns:
      A pattern, to be passed to `make` or `prune`.

    Raises:
      ValueError: if ``norm`` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"kernel": jnp.array([[1.0, 5.0], [1.0, 0.5]])}
      >>> jp.masks.make(scores, 0.5, pattern=channels())["kernel"].tolist()
      [[False, True], [False, True]]

    References:
      Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (L1); He et al., Filter Pruning
      via Geometric Median, CVPR 2019.
    """
    check_words(norm)

    def pattern(path: str, leaf: Any) -> PatternSpec | None:
        own = axis(path, leaf) if callable(axis) else axis
        if not -leaf.ndim <= own < leaf.ndim:
            raise ValueError(f"the pattern names axis {own} of {path!r}, of shape {leaf.shape}.")
        if 0 in leaf.shape:
            return None
        others = tuple(i for i in range(leaf.ndim) if i != own % leaf.ndim)
        return PatternSpec(others, tuple(leaf.shape[i] for i in others), norm=norm)

    return pattern
