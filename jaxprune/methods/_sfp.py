"""SFP as a recipe."""

from functools import partial
from typing import Any

from jaxprune import transforms
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def sfp(
    sparsity: float | None, *, total_steps: int, interval: int | None = None, **options: Any
) -> Method:
    """Soft filter pruning (SFP): `jaxprune.transforms.soft` around the optimizer.

    Whole filters of convolutions by default. The last step of training is a reset, so the network
    ends sparse.

    Args:
      sparsity: fraction removed of the filters of each layer, in (0, 1); `None` with an N:M
        pattern.
      total_steps: the length of training in steps.
      interval: steps between resets, an epoch in the original; a tenth of training if omitted.
      **options: further options of the transform, e.g. ``where`` for a network without
        convolutions.

    Returns:
      The method.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> sfp(0.3, total_steps=1000).sparsity
      0.3

    References:
      He, Kang, Dong, Fu, Yang, Soft Filter Pruning for Accelerating Deep Convolutional Neural
      Networks, IJCAI 2018.
    """
    every = tenth(total_steps) if interval is None else interval
    transform = partial(
        transforms.soft, sparsity=sparsity, total_steps=total_steps, every=every, **options
    )
    return checked(Method("sfp", sparsity, total_steps, transform=transform))
