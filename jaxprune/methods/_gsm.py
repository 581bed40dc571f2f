"""GSM as a recipe."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune import transforms
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import magnitude_prune, ranked_by
from jaxprune.methods._method import Method


def gsm(
    sparsity: float | None,
    *,
    ranked: Where | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Global sparse momentum (GSM): `jaxprune.transforms.gsm` before the optimizer, then a prune.

    The optimizer is to have momentum and weight decay, which take the other weights to zero. The
    original: momentum 0.98, learning rate 5e-3, weight decay 1e-4, from a trained network.

    Args:
      sparsity: fraction removed in the end, in [0, 1); `None` with an N:M pattern.
      ranked: ``where`` of the transform: among which weights the gradient is kept for the most
        important ones; all parameters if omitted, as in the code of Zimmer et al.; with
        ``allocation`` or ``pattern`` those of ``where``, because biases have neither.
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
      >>> gsm(0.9).final_prune is None
      False

    References:
      Ding et al., Global Sparse Momentum SGD for Pruning Very Deep Neural Networks, NeurIPS 2019.
    """
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    ranked = ranked_by(ranked, allocation=allocation, pattern=pattern, where=where)
    edit = transforms.gsm(sparsity, **rules, where=ranked)

    def transform(optimizer: Any) -> optax.GradientTransformationExtraArgs:
        return optax.chain(edit, optimizer)

    final = magnitude_prune(sparsity, **rules, where=where)
    return Method("gsm", sparsity, transform=transform, final_prune=final)
