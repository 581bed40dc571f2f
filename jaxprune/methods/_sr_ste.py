"""SR-STE as a recipe."""

from __future__ import annotations

from jaxprune import parametrizations
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Pattern, Stacked
from jaxprune.methods._method import Method


def sr_ste(
    pattern: Pattern,
    *,
    decay: float = 2e-4,
    scores: Scores | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Sparse-refined straight-through (SR-STE) for N:M: `jaxprune.parametrizations.sr_ste`.

    Args:
      pattern: an N:M pattern, e.g. ``jp.masks.nm(2, 4, layout="flax")``; it fixes the sparsity.
      decay: strength of the decay of the other weights.
      scores: what decides which weights stay; magnitude if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> import jaxprune as jp
      >>> sr_ste(jp.masks.nm(2, 4, layout="flax")).name
      'sr_ste'

    References:
      Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR
      2021.
    """
    p = parametrizations.sr_ste(pattern, decay=decay, scores=scores, where=where, stacked=stacked)
    return Method("sr_ste", None, parametrization=p)
