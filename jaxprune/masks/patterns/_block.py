"""Blocks: h x w weights stay or go together."""

from __future__ import annotations

from typing import Any

from jaxprune.masks.patterns._pattern import Norm, Pattern, PatternSpec, Remainder, check_words


def block(
    h: int,
    w: int,
    *,
    axes: tuple[int, int] = (-2, -1),
    norm: Norm = "l1",
    remainder: Remainder = "error",
) -> Pattern:
    """Keeps or removes blocks of h x w weights whole.

    The unit of every count is a block: exactly ``round(sparsity * blocks)`` blocks go.

    Args:
      h: length of a block along the first of ``axes``.
      w: length of a block along the second.
      axes: the two axes that are cut, negative from the last; by default input and output channels
        of Flax' and Haiku's kernels.
      norm: how the scores of a block become one: "l1" (sum), "l2", "max" or "mean".
      remainder: if a length does not divide its axis: "error", or "dense" to keep what is left.

    Returns:
      A pattern, to be passed to `make` or `prune`.

    Raises:
      ValueError: if a length is not positive or a word is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"kernel": jnp.array([[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]])}
      >>> jp.masks.make(scores, 0.5, pattern=block(2, 2))["kernel"].tolist()
      [[False, False, True, True], [False, False, True, True]]

    References:
      Narang et al., Block-Sparse Recurrent Neural Networks, 2017.
    """
    if h < 1 or w < 1:
        raise ValueError(f"a block has positive lengths; got {h} x {w}.")
    check_words(norm, remainder)

    def pattern(path: str, leaf: Any) -> PatternSpec:
        del path, leaf  # the same blocks everywhere
        return PatternSpec(axes, (h, w), norm=norm, remainder=remainder)

    return pattern
