"""Arguments checked: functions, numbers, step counts. What fits comes back as a Python value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_function(name: str, value: Any) -> None:
    """Raises unless an optional argument is a function.

    Raises:
      TypeError: naming what it is.
    """
    if value is not None and not callable(value):
        raise TypeError(
            f"{name} must be a function or None, but it is {value!r} of type "
            f"{type(value).__name__}."
        )


def check_number(name: str, value: Any, *, low: float, high: float = float("inf")) -> float:
    """Returns a finite number in [low, high] as a Python float, or raises.

    Raises:
      TypeError: if it is not a static number.
      ValueError: if it is not finite or out of range.
    """
    number = _static(name, value, hint=f"Pass float({name}), outside of jit.")
    if not np.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{name} is {value}, but must be finite and in [{low:g}, {high:g}].")
    return number


def check_fraction(name: str, value: Any) -> float:
    """Returns a fraction removed, in [0, 1), as a Python float, or raises.

    Raises:
      TypeError: if it is not a static number.
      ValueError: if it is out of range.
    """
    number = _static(name, value, hint=f"Pass float({name}), outside of jit.")
    if not 0 <= number < 1:
        hint = f" For {number:g} % pass {number / 100:g}." if 1 < number < 100 else ""
        raise ValueError(f"{name} is {value}, but a fraction removed must lie in [0, 1).{hint}")
    return number


def check_rate(name: str, value: Any) -> float:
    """Returns a learning rate as a Python float, or raises.

    Raises:
      TypeError: if it is not a static number.
      ValueError: if it is not positive and finite.
    """
    hint = f"Pass float({name}); for a traced one, build with {name}=1.0 and multiply."
    number = _static(name, value, hint=hint)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} is {value}, but a learning rate must be positive and finite.")
    return number


def check_steps(name: str, value: Any, *, at_least: int = 1, below: int | None = None) -> int:
    """Returns a step count as a Python integer, or raises.

    Raises:
      TypeError: if it is not a static integer.
      ValueError: if it is below ``at_least``, or not below ``below``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{name} must be a static Python integer (a number of steps), but it is {value!r} of "
            f"type {type(value).__name__}. Pass int({name}), outside of jit."
        )
    if value < at_least:
        raise ValueError(f"{name} is {value}, but must be at least {at_least}.")
    if below is not None and value >= below:
        raise ValueError(f"{name} is {value}, but must be below {below}, to fit in its counter.")
    return int(value)


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
    if isinstance(value, jax.Array):
        return value.astype(jnp.float32)
    with np.errstate(over="ignore"):  # infinite, then
        return jax.device_put(np.asarray(value).astype(np.float32))


def _static(name: str, value: Any, *, hint: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"{name} must be a static number, but it is {value!r} of type {type(value).__name__}. "
            f"{hint}"
        )
    return float(value)


def check_choice(name: str, value: Any, choices: Iterable[Any], *, hint: str = "") -> None:
    """Raises unless the value is one of the choices.

    Raises:
      ValueError: naming the choices.
    """
    known = list(choices)
    if value not in known:
        more = f", {hint}" if hint else ""
        raise ValueError(f"{name} is one of {', '.join(map(repr, known))}{more}; got {value!r}.")
