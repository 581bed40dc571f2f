"""What a budget is: how much may be left, and how what is left is counted."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxprune._tree import PyTree


class Measured(NamedTuple):
    """What is left.

    Attributes:
      value: how much.
      detail: what is to be said of the number, such as its interval; "" for exact counts.
      low: lower end of its interval.
      high: upper end.
    """

    value: float
    detail: str
    low: float
    high: float


class Budget(NamedTuple):
    """How much may be left of a network, for `select`.

    Attributes:
      unit: what is counted, a plural.
      amount: how much of it: a fraction of what the whole network has, or as it is.
      is_fraction: which of the two.
      measure: ``measure(apply, params, inputs) -> Measured`` of a function whose parameters and
        inputs are `jax.ShapeDtypeStruct`.
      probes: how many networks are measured at most.
      shown: how an amount is written.
      table: has ``predict(apply, params, inputs)``, a number that grows with what is measured, to
        search by where measuring is slow.
    """

    unit: str
    amount: float
    is_fraction: bool
    measure: Callable[[Callable[..., Any], PyTree, tuple[Any, ...]], Measured]
    probes: int = 64
    shown: Callable[[float], str] = str
    table: Any = None


def exactly(value: int) -> Measured:
    """An exact count."""
    return Measured(value, "", value, value)


def amount_of(name: str, amount: Any) -> tuple[float, bool]:
    """A fraction (float) or a number (int), and whether it is a fraction.

    Raises:
      TypeError: if it is neither.
      ValueError: if a fraction lies outside (0, 1], or a number is below 1.
    """
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real):
        raise TypeError(
            f"{name} takes a fraction of what is left (float) or a number (int); got {amount!r}."
        )
    if isinstance(amount, numbers.Integral):
        if amount < 1:
            raise ValueError(f"{name} of {amount} leaves nothing. Pass 1 or more.")
        return int(amount), False
    return fraction_of(name, float(amount)), True


def fraction_of(name: str, fraction: float) -> float:
    """A fraction in (0, 1].

    Raises:
      ValueError: if it lies outside.
    """
    if not 0 < fraction <= 1 or math.isnan(fraction):
        raise ValueError(
            f"{name} of {fraction} is no fraction of what is left, in (0, 1]. For a number of them "
            "pass an integer."
        )
    return fraction
