"""Defaults that several recipes share."""

from collections.abc import Callable

from jaxprune import masks, scores
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation


def tenth(total_steps: int) -> int:
    """A tenth of training, at least one step: how often a mask moves if nobody says."""
    return max(1, total_steps // 10)


def magnitude_prune(
    sparsity: float, *, allocation: Allocation | None, where: Where | None
) -> Callable[[PyTree], PyTree]:
    """The final hard prune of methods that only prepare for one.

    Raises:
      TypeError: if the sparsity is not a number.
      ValueError: if it lies outside [0, 1).
    """
    masks.count(sparsity, 1)

    def prune(params: PyTree) -> PyTree:
        return masks.make(scores.magnitude(params, where=where), sparsity, allocation=allocation)

    return prune
