"""Arrays to be timed with."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def filled(x: Any) -> jax.Array:
    """An array of a shape: random numbers, zeros where it is not floating."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros(x.shape, x.dtype)  # random keys, too
    values = np.random.default_rng(0).normal(size=x.shape) / 8
    return jax.device_put(np.asarray(values).astype(x.dtype))
