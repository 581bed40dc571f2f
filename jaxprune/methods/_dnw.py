"""DNW as a recipe."""

from __future__ import annotations

from jaxprune import parametrizations
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._method import Method


def dnw(
    sparsity: float | None,
    *,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Discovering neural wirings (DNW): `jaxprune.parametrizations.dnw`, sparse from the start.

    Args:
      sparsity: fraction removed at every step, in [0, 1); `None` with an N:M pattern.
      scores: what decides which weights stay; magnitude if omitted.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> dnw(0.9).sparsity
      0.9

    References:
      Wortsman, Farhadi, Rastegari, Discovering Neural Wirings, NeurIPS 2019.
    """
    p = parametrizations.dnw(
        sparsity,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return Method("dnw", sparsity, parametrization=p)
