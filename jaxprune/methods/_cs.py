"""CS as a recipe."""

from typing import Any

from jaxprune import parametrizations
from jaxprune.methods._method import Method


def cs(*, total_steps: int, **options: Any) -> Method:
    """Continuous sparsification (CS): `jaxprune.parametrizations.cs`.

    The sparsity follows from the initial gate and the penalty; it is not controlled.

    Args:
      total_steps: the length of training in steps.
      **options: further options of the parametrization, e.g. ``initial``.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> print(cs(total_steps=1000).sparsity)
      None

    References:
      Savarese, Silva, Maire, Winning the Lottery with Continuous Sparsification, NeurIPS 2020.
    """
    p = parametrizations.cs(total_steps=total_steps, **options)
    return Method("cs", None, total_steps, parametrization=p)
