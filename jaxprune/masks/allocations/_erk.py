"""Erdős–Rényi-Kernel: small layers stay denser than large ones."""

from __future__ import annotations

import math
from typing import Any

import jax

from jaxprune._tree import PyTree
from jaxprune.masks.allocations import _limits
from jaxprune.masks.allocations._allocation import Allocation, OnCollapse, Pools, check_on_collapse
from jaxprune.masks.allocations._proportional import proportional


def erk(
    *,
    max_sparsity: Any = None,
    min_sparsity: Any = None,
    keep_at_least: Any = None,
    power: float = 1.0,
    on_collapse: OnCollapse = "error",
) -> Allocation:
    """Gives each leaf a density by the Erdős–Rényi-Kernel rule.

    ``density_i = min(1, e * (sum(shape_i) / prod(shape_i)) ** power)`` with the one e for which
    exactly ``round(sparsity * n)`` weights go. Where a leaf would be denser than dense, it stays
    dense and the others share what remains. Counts are rounded by largest remainder. The rule is
    symmetric in the axes, so it holds in every framework's layout.

    Args:
      max_sparsity: the largest fraction that a leaf may lose; as for `globally`.
      min_sparsity: the smallest fraction that a leaf loses; as for `globally`.
      keep_at_least: how many weights each leaf keeps in any case; as for `globally`.
      power: exponent of the rule; 0 gives uniform densities.
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`. It raises ValueError if the limits do not
      allow the total, if a rule matches no leaf, or if a limit lies outside [0, 1].

    Raises:
      ValueError: if ``on_collapse`` is unknown, or ``power`` is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.arange(64.0).reshape(8, 8)}
      >>> mask = jp.masks.make(scores, 0.75, allocation=erk())
      >>> [row.kept for row in jp.metrics.sparsity_per_leaf(mask)]  # 17 of 68; a would get 3.4
      [3, 14]

    References:
      Evci et al., Rigging the Lottery, ICML 2020, section 3; Mocanu et al., 2018 (dense layers).
    """
    check_on_collapse(on_collapse)
    if not 0.0 <= power < math.inf:
        raise ValueError(f"power is an exponent, at least 0; got {power!r}.")

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # densities follow from shapes
        limits = _limits.LeafLimits(scores, min_sparsity, max_sparsity, keep_at_least)
        densities = [
            (sum(leaf.shape) / max(math.prod(leaf.shape), 1)) ** power if sum(leaf.shape) else 1.0
            for leaf in jax.tree.leaves(scores)
        ]
        return proportional(
            scores,
            densities,
            limits=limits.counts,
            on_collapse=on_collapse,
        )

    return allocate
