"""CS as a recipe."""

from __future__ import annotations

from typing import Literal

from jaxprune import parametrizations
from jaxprune._tree import Where
from jaxprune.masks import Stacked
from jaxprune.methods._method import Method


def cs(
    *,
    total_steps: int,
    initial: float = 0.0,
    final_temperature: float = 200.0,
    interval: int | None = None,
    penalty: float = 1e-8,
    weight_decay: float = 0.0,
    final: Literal["soft", "hard"] = "soft",
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Continuous sparsification (CS): `jaxprune.parametrizations.cs`.

    The sparsity follows from the initial gate and the penalty; it is not controlled.

    Args:
      total_steps: the length of training in steps.
      initial: the gates' start; below 0 fewer weights survive, above 0 more.
      final_temperature: of the gates, at the end; at least 1.
      interval: steps between moves of the temperature; every step if omitted.
      penalty: of the open gates, added up over the weights.
      weight_decay: over prunable weights.
      final: the values that survive: "soft", as the last gates leave them, or "hard".
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> print(cs(total_steps=1000).sparsity)
      None

    References:
      Savarese, Silva, Maire, Winning the Lottery with Continuous Sparsification, NeurIPS 2020.
    """
    p = parametrizations.cs(
        total_steps=total_steps,
        initial=initial,
        final_temperature=final_temperature,
        interval=interval,
        penalty=penalty,
        weight_decay=weight_decay,
        final=final,
        where=where,
        stacked=stacked,
    )
    return Method("cs", None, total_steps, parametrization=p)
