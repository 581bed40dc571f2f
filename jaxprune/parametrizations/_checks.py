"""Arguments checked: functions, numbers, step counts."""

from typing import Any

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
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"{name} must be a static number, but it is {value!r} of type {type(value).__name__}. "
            f"Pass float({name}), outside of jit."
        )
    if not np.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value}, but must be finite and in [{low:g}, {high:g}].")
    return float(value)


def check_fraction(name: str, value: Any) -> float:
    """Returns a fraction removed, in (0, 1), as a Python float, or raises.

    Raises:
      TypeError: if it is not a static number.
      ValueError: if it is out of range.
    """
    number = check_number(name, value, low=-float("inf"))
    if not 0 < number < 1:
        hint = " For percent, divide by 100." if 1 < number <= 100 else ""
        raise ValueError(f"{name} is {value}, but a fraction removed must lie in (0, 1).{hint}")
    return number


def check_steps(name: str, value: Any) -> int:
    """Returns a positive step count as a Python integer, or raises.

    Raises:
      TypeError: if it is not a static integer.
      ValueError: if it is not positive or does not fit in the int32 counter.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{name} must be a static Python integer (a number of steps), but it is {value!r} of "
            f"type {type(value).__name__}. Pass int({name}), outside of jit."
        )
    if not 1 <= value < 2**31:
        raise ValueError(f"{name} is {value}, but must be at least 1 and below 2**31.")
    return int(value)
