"""Static sparse training as a recipe."""

from functools import partial
from typing import Any

import jax

from jaxprune import transforms
from jaxprune.methods._method import Method, checked


def static(sparsity: float | None, *, key: jax.Array, **options: Any) -> Method:
    """Static sparse training: a random mask from the start, `jaxprune.transforms.static`.

    Args:
      sparsity: fraction removed from the start, in (0, 1); `None` with an N:M pattern.
      key: a JAX random key for the mask.
      **options: further options of the transform, e.g. ``allocation``.

    Returns:
      The method.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> static(0.9, key=jax.random.key(0)).sparsity
      0.9

    References:
      Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020 (the baseline of this
      name).
    """
    transform = partial(transforms.static, sparsity=sparsity, key=key, **options)
    return checked(Method("static", sparsity, transform=transform))
