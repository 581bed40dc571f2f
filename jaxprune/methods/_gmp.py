"""GMP as a recipe."""

from functools import partial
from typing import Any

from jaxprune import transforms
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def gmp(
    sparsity: float, *, total_steps: int, interval: int | None = None, **options: Any
) -> Method:
    """Gradual magnitude pruning (GMP): `jaxprune.transforms.gmp` around the optimizer.

    Args:
      sparsity: fraction removed in the end, in (0, 1).
      total_steps: the length of training in steps.
      interval: steps between prunings; a tenth of training if omitted.
      **options: further options of the transform, e.g. ``allocation``.

    Returns:
      The method. It ends sparse: the final prune removes nothing.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> gmp(0.9, total_steps=1000).sparsity
      0.9

    References:
      Zhu & Gupta, To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
      Compression, 2017.
    """
    interval = tenth(total_steps) if interval is None else interval
    transform = partial(
        transforms.gmp, sparsity=sparsity, total_steps=total_steps, interval=interval, **options
    )
    return checked(Method("gmp", sparsity, total_steps, transform=transform))
