"""DST as a recipe."""

from typing import Any

from jaxprune import parametrizations
from jaxprune.methods._method import Method


def dst(**options: Any) -> Method:
    """Dynamic sparse training (DST): `jaxprune.parametrizations.dst`.

    The sparsity follows from the penalty; it is not controlled.

    Args:
      **options: options of the parametrization, e.g. ``penalty``.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> print(dst().sparsity)
      None

    References:
      Liu et al., Dynamic Sparse Training: Find Efficient Sparse Network From Scratch With Trainable
      Masked Layers, ICLR 2020.
    """
    return Method("dst", None, parametrization=parametrizations.dst(**options))
