"""DNW as a recipe."""

from typing import Any

from jaxprune import parametrizations
from jaxprune.methods._method import Method


def dnw(sparsity: float, **options: Any) -> Method:
    """Discovering neural wirings (DNW): `jaxprune.parametrizations.dnw`, sparse from the start.

    Args:
      sparsity: fraction removed at every step, in (0, 1).
      **options: further options of the parametrization, e.g. ``allocation``.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> dnw(0.9).sparsity
      0.9

    References:
      Wortsman, Farhadi, Rastegari, Discovering Neural Wirings, NeurIPS 2019.
    """
    return Method("dnw", sparsity, parametrization=parametrizations.dnw(sparsity, **options))
