"""Defaults that several recipes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprune import masks, scores
from jaxprune._tree import PyTree, Where, default_where
from jaxprune.masks import Allocation, Pattern, Stacked


def tenth(total_steps: int) -> int:
    """A tenth of training, at least one step: how often a mask moves if nobody says."""
    return max(1, total_steps // 10)


def magnitude_prune(
    sparsity: float | None,
    *,
    allocation: Allocation | None,
    pattern: Pattern | None,
    where: Where | None,
    stacked: Stacked | None,
) -> Callable[[PyTree], PyTree]:
    """The final hard prune of methods that only prepare for one.

    Raises:
      TypeError: if the sparsity is not a number.
      ValueError: if it lies outside [0, 1).
    """
    if sparsity is not None or pattern is None:
        masks.count(sparsity, 1)

    def prune(params: PyTree) -> PyTree:
        scored = scores.magnitude(params, where=where)
        rules: Any = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
        return masks.make(scored, sparsity, **rules)

    return prune


def ranked_by(
    ranked: Where | None,
    *,
    allocation: Allocation | None,
    pattern: Pattern | None,
    where: Where | None,
) -> Where | None:
    """Among which leaves a method that edits gradients looks for the important weights.

    What the user says; if nothing, all parameters, unless a rule by leaves or groups is given: that
    is one for the weights that the final prune takes.
    """
    if ranked is None and (allocation is not None or pattern is not None):
        return where or default_where
    return ranked
