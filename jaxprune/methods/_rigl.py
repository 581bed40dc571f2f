"""RigL as a recipe."""

from functools import partial
from typing import Any

import jax

from jaxprune import transforms
from jaxprune.methods._method import Method, checked


def rigl(
    sparsity: float | None,
    *,
    key: jax.Array,
    total_steps: int,
    interval: int | None = None,
    **options: Any,
) -> Method:
    """RigL (the rigged lottery): `jaxprune.transforms.rigl` around the optimizer.

    Args:
      sparsity: fraction removed from the start, in (0, 1); `None` with an N:M pattern.
      key: a JAX random key for the first mask.
      total_steps: the length of training in steps.
      interval: steps between rewirings; the authors' 100 if omitted, or a thirtieth of training
        where that is less, but at least 5.
      **options: further options of the transform, e.g. ``drop_fraction``.

    Returns:
      The method.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> rigl(0.9, key=jax.random.key(0), total_steps=1000).sparsity
      0.9

    References:
      Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020.
    """
    # At least 5: a rewiring takes the place of a step.
    interval = max(5, min(100, total_steps // 30)) if interval is None else interval
    transform = partial(
        transforms.rigl,
        sparsity=sparsity,
        key=key,
        total_steps=total_steps,
        interval=interval,
        **options,
    )
    return checked(Method("rigl", sparsity, total_steps, transform=transform))
