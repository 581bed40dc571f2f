"""STR as a recipe."""

from typing import Any

from jaxprune import parametrizations
from jaxprune.methods._method import Method


def str_(**options: Any) -> Method:
    """Soft threshold reparametrization (STR): `jaxprune.parametrizations.str_`.

    The sparsity follows from the initial threshold and the weight decay of the optimizer; it is
    not controlled.

    Args:
      **options: options of the parametrization, e.g. ``initial``.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> print(str_().sparsity)
      None

    References:
      Kusupati et al., Soft Threshold Weight Reparameterization for Learnable Sparsity, ICML 2020.
    """
    return Method("str", None, parametrization=parametrizations.str_(**options))
