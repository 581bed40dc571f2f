"""LC as a recipe."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune import transforms
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import magnitude_prune, ranked_by
from jaxprune.methods._method import Method


def lc(
    sparsity: float | None,
    *,
    weight_decay: Any = None,
    mu: Any = None,
    interval: int = 1,
    multipliers: bool = False,
    scores: Scores | None = None,
    ranked: Where | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Learning-compression (LC): `jaxprune.transforms.lc` before the optimizer, then a prune.

    The optimizer is to have no weight decay of its own: this one decays the small weights only.

    Args:
      sparsity: fraction removed in the end, in [0, 1); `None` with an N:M pattern.
      weight_decay: strength of the selective decay; 1e-3 if neither this nor ``mu`` is given: the
        form that the published comparison ran, and that diverges for no learning rate. In
        BIMP's code the strength is the weight decay of the optimizer, taken back for the largest
        weights: to compare with it, pass that number here and give the optimizer none.
      mu: penalty of the original's alternation, a number or a function of the step; instead of
        ``weight_decay``.
      interval: with ``mu``, steps between projections.
      multipliers: with ``mu``, whether to use multipliers.
      scores: importance of what is projected; magnitude if omitted.
      ranked: ``where`` of the transform: among which weights the largest are spared; all
        parameters if omitted, as in the code of Zimmer et al.; with ``allocation`` or ``pattern``
        those of ``where``, because biases have neither.
      allocation: how the total is spread over leaves, in training and by the final prune; global
        if omitted.
      pattern: which weights go together, in training and by the final prune; unstructured if
        omitted.
      where: what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method. Nothing is zero during training; the final prune is by magnitude.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> lc(0.9).final_prune is None
      False

    References:
      Carreira-Perpiñán & Idelbayev, Learning-Compression Algorithms for Neural Net Pruning, CVPR
      2018.
    """
    if weight_decay is None and mu is None:
        weight_decay = 1e-3
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    ranked = ranked_by(ranked, allocation=allocation, pattern=pattern, where=where)
    edit = transforms.lc(
        sparsity,
        weight_decay,
        mu=mu,
        interval=interval,
        multipliers=multipliers,
        scores=scores,
        **rules,
        where=ranked,
    )

    def transform(optimizer: Any) -> optax.GradientTransformationExtraArgs:
        return optax.chain(edit, optimizer)

    final = magnitude_prune(sparsity, **rules, where=where)
    return Method("lc", sparsity, transform=transform, final_prune=final)
