"""Blocks: h x w weights, or cuboids of more axes, stay or go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxprune._checks import check_steps
from jaxprune.masks.patterns._pattern import Norm, Pattern, PatternSpec, Remainder, check_words


def block(
    h: int,
    w: int,
    *more: int,
    axes: Sequence[int] | None = None,
    norm: Norm = "l1",
    remainder: Remainder = "error",
) -> Pattern:
    """Keeps or removes blocks of weights whole: ``block(h, w)``, or of more axes.

    The unit of every count is a block: exactly ``round(sparsity * blocks)`` blocks go.

    Args:
      h: length of a block along the first of ``axes``.
      w: length of a block along the second.
      *more: those along further axes.
      axes: the axes that are cut, negative from the last, as many as there are lengths; the last
        ones if omitted: of two lengths, input and output channels of Flax' and Haiku's kernels.
      norm: how the scores of a block become one: "l1" (sum), "l2", "max" or "mean".
      remainder: if a length does not divide its axis: "error"; "dense" to keep what is left; "pad"
        to make smaller blocks of it.

    Returns:
      A pattern, to be passed to `make` or `prune`.

    Raises:
      ValueError: if a length is not positive, there is not one axis a length, or a word is unknown.
      TypeError: if a length is no integer.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"kernel": jnp.array([[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]])}
      >>> jp.masks.make(scores, 0.5, pattern=block(2, 2))["kernel"].tolist()
      [[False, False, True, True], [False, False, True, True]]

    References:
      Narang et al., Block-Sparse Recurrent Neural Networks, 2017.
    """
    sizes = tuple(check_steps("a length of a block", length) for length in (h, w, *more))
    cut = tuple(range(-len(sizes), 0)) if axes is None else tuple(axes)
    if len(cut) != len(sizes):
        raise ValueError(f"a block has one length an axis; got lengths {sizes} for axes {cut}.")
    check_words(norm, remainder)

    def pattern(path: str, leaf: Any) -> PatternSpec:
        del path, leaf  # the same blocks everywhere
        return PatternSpec(cut, sizes, norm=norm, remainder=remainder)

    return pattern
