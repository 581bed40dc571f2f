"""One table from names to retraining schedules, for configurations and command lines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import optax

from jaxprune.schedules._allr import allr
from jaxprune.schedules._clr import clr
from jaxprune.schedules._ft import ft
from jaxprune.schedules._llr import llr
from jaxprune.schedules._lrw import lrw
from jaxprune.schedules._slr import slr
from jaxprune.schedules._tunable import constant, cosine, linear, stepped

RETRAINING: dict[str, Callable[..., optax.Schedule]] = {
    "ft": ft,
    "lrw": lrw,
    "slr": slr,
    "clr": clr,
    "llr": llr,
    "allr": allr,
    "constant": constant,
    "stepped": stepped,
    "cosine": cosine,
    "linear": linear,
}


def retraining(
    name: str,
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    retraining_steps: int,
    discount: Any = None,
    peak: float | None = None,
    pretraining_warmup_steps: int = 0,
    warmup: float | None = None,
    minimum: bool | None = None,
) -> optax.Schedule:
    """The retraining schedule called ``name`` in the table `RETRAINING`.

    Args:
      name: "ft", "lrw", "slr", "clr", "llr", "allr", "constant", "stepped", "cosine" or "linear".
      pretraining: the schedule of the dense run, step -> learning rate.
      pretraining_steps: T, its length in steps.
      retraining_steps: N, the length of this retraining in steps.
      discount: d of `allr`; needed there, refused elsewhere.
      peak: the first rate of `constant`, `stepped`, `cosine` and `linear`; needed there, refused
        elsewhere.
      pretraining_warmup_steps: W, the warm-up steps of the dense run.
      warmup: fraction of ``retraining_steps`` of warm-up; the default of the schedule if omitted.
      minimum: the option of `ft`; refused elsewhere.

    Returns:
      A schedule of N steps.

    Raises:
      ValueError: if the name is unknown, an option it needs is missing or one it has not is given;
        and what the schedule itself raises.
      TypeError: what the schedule itself raises.

    Example:
      >>> import optax
      >>> dense = optax.piecewise_constant_schedule(0.1, {80: 0.1, 120: 0.1})
      >>> schedule = retraining("lrw", dense, pretraining_steps=160, retraining_steps=72)
      >>> print(f"{schedule(0):.3f} {schedule(71):.3f}")
      0.010 0.001
    """
    if name not in RETRAINING:
        raise ValueError(
            f"there is no retraining schedule {name!r}. Known are: {', '.join(RETRAINING)}."
        )
    function = RETRAINING[name]
    parameters = inspect.signature(function).parameters
    options = {"discount": discount, "peak": peak, "warmup": warmup, "minimum": minimum}
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in parameters:
            raise ValueError(
                f"{name} has no {option}, but {given[option]!r} is given. Leave it out."
            )
    for option in options:
        needed = option in parameters and parameters[option].default is inspect.Parameter.empty
        if needed and option not in given:
            how = "allr_discount" if option == "discount" else "the rate to start from"
            raise ValueError(f"{name} needs {option}=... ({how}).")
    return function(
        pretraining,
        pretraining_steps=pretraining_steps,
        retraining_steps=retraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
        **given,
    )
