"""SET as a recipe."""

from functools import partial
from typing import Any

import jax

from jaxprune import transforms
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method, checked


def set_(
    sparsity: float,
    *,
    key: jax.Array,
    total_steps: int,
    interval: int | None = None,
    **options: Any,
) -> Method:
    """Sparse evolutionary training (SET): `jaxprune.transforms.set_` around the optimizer.

    Args:
      sparsity: fraction removed from the start, in (0, 1).
      key: a JAX random key for the first mask and for what grows.
      total_steps: the length of training in steps.
      interval: steps between rewirings, an epoch in the original; a tenth of training if omitted.
      **options: further options of the transform, e.g. ``drop_fraction``.

    Returns:
      The method.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> set_(0.9, key=jax.random.key(0), total_steps=1000).sparsity
      0.9

    References:
      Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse
      Connectivity Inspired by Network Science, Nature Communications 9, 2018.
    """
    interval = tenth(total_steps) if interval is None else interval
    transform = partial(
        transforms.set_,
        sparsity=sparsity,
        key=key,
        total_steps=total_steps,
        interval=interval,
        **options,
    )
    return checked(Method("set", sparsity, total_steps, transform=transform))
