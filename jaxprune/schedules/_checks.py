"""Arguments checked: step counts, rates, scalars."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_steps(name: str, value: Any, *, at_least: int = 1) -> int:
    """Returns a step count as a Python integer, or raises.

    Raises:
      TypeError: if it is not a static integer.
      ValueError: if it is below ``at_least``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{name} must be a static Python integer (a number of steps), but it is {value!r} of "
            f"type {type(value).__name__}. Pass int({name}), outside of jit."
        )
    if value < at_least:
        raise ValueError(f"{name} is {value}, but must be at least {at_least}.")
    return int(value)


def check_rate(name: str, value: Any) -> float:
    """Returns a learning rate as a Python float, or raises.

    Raises:
      TypeError: if it is not a static number.
      ValueError: if it is not positive and finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"{name} must be a static number, but it is {value!r} of type {type(value).__name__}. "
            f"Pass float({name}); for a traced one, build with {name}=1.0 and multiply."
        )
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}, but a learning rate must be positive and finite.")
    return float(value)


def check_scalar(name: str, value: Any) -> jax.Array:
    """Returns a number, which may be traced, as a float32 scalar, or raises.

    Raises:
      TypeError: if it is not one number.
    """
    number = (int, float, np.integer, np.floating, np.ndarray, jax.Array)
    if isinstance(value, bool) or not isinstance(value, number) or np.shape(value) != ():
        raise TypeError(
            f"{name} must be a scalar, but it is {value!r} of type {type(value).__name__}. "
            "Pass one number or an array of shape ()."
        )
    return jnp.asarray(value).astype(jnp.float32)
