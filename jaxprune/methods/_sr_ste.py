"""SR-STE as a recipe."""

from typing import Any

from jaxprune import parametrizations
from jaxprune.masks import Pattern
from jaxprune.methods._method import Method


def sr_ste(pattern: Pattern, **options: Any) -> Method:
    """Sparse-refined straight-through (SR-STE) for N:M: `jaxprune.parametrizations.sr_ste`.

    Args:
      pattern: an N:M pattern, e.g. ``jp.masks.nm(2, 4, layout="flax")``; it fixes the sparsity.
      **options: further options of the parametrization, e.g. ``decay``.

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
    p = parametrizations.sr_ste(pattern, **options)
    return Method("sr_ste", None, parametrization=p)
