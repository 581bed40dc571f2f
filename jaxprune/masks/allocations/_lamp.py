"""LAMP: global pruning of layer-adaptive scores."""

from __future__ import annotations

from typing import Any

from jaxprune._tree import PyTree
from jaxprune.masks.allocations._allocation import Allocation, OnCollapse, Pools
from jaxprune.masks.allocations._globally import globally
from jaxprune.scores import lamp as lamp_scores


def lamp(
    *,
    max_sparsity: Any = None,
    min_sparsity: Any = None,
    keep_at_least: Any = None,
    on_collapse: OnCollapse = "error",
) -> Allocation:
    """Rescales the scores of each leaf by LAMP and counts all prunable weights together.

    A weight's squared score is divided by the sum of the squares of all scores of its leaf that are
    not smaller, so the largest of each leaf scores 1 and is removed last. The total is exact.
    Rescaling takes one sort a leaf (see `jaxprune.scores.lamp`), the only one in this folder.

    Args:
      max_sparsity: the largest fraction that a leaf may lose; as for `globally`.
      min_sparsity: the smallest fraction that a leaf loses; as for `globally`.
      keep_at_least: how many weights each leaf keeps in any case; as for `globally`.
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`. It raises ValueError as that of `globally`,
      and outside `jit` if a score is negative.

    Raises:
      ValueError: if ``on_collapse`` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([30.0, 40.0])}
      >>> mask = jp.masks.make(scores, 0.5, allocation=lamp())
      >>> mask["a"].tolist(), mask["b"].tolist()
      ([False, True], [False, True])

    References:
      Lee et al., Layer-Adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, equation 4.
    """
    whole = globally(
        max_sparsity=max_sparsity,
        min_sparsity=min_sparsity,
        keep_at_least=keep_at_least,
        on_collapse=on_collapse,
    )

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        return whole(lamp_scores(scores, within=within), within)

    return allocate
