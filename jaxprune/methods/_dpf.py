"""DPF as a recipe."""

from typing import Any

from jaxprune import parametrizations
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method


def dpf(
    sparsity: float, *, total_steps: int, interval: int | None = None, **options: Any
) -> Method:
    """Dynamic pruning with feedback (DPF): `jaxprune.parametrizations.dpf`.

    Args:
      sparsity: fraction removed in the end, in (0, 1).
      total_steps: the length of training in steps.
      interval: steps between rises of the target; a tenth of training if omitted.
      **options: further options of the parametrization, e.g. ``refresh``.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> dpf(0.9, total_steps=1000).sparsity
      0.9

    References:
      Lin et al., Dynamic Model Pruning with Feedback, ICLR 2020.
    """
    interval = tenth(total_steps) if interval is None else interval
    p = parametrizations.dpf(sparsity, total_steps=total_steps, interval=interval, **options)
    return Method("dpf", sparsity, total_steps, parametrization=p)
