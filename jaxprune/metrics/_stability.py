"""Pruning stability: how much accuracy survives the prune itself."""

from __future__ import annotations


def pruning_stability(accuracy_pruned: float, accuracy_before: float) -> float:
    """Returns the share of the accuracy that is left right after pruning.

    ``stability = accuracy_pruned / accuracy_before = 1 - instability``.

    Args:
      accuracy_pruned: accuracy right after the prune, before retraining (any unit).
      accuracy_before: accuracy of the network that was pruned (same unit).

    Returns:
      The stability; 1 where pruning cost nothing.

    Raises:
      ValueError: if ``accuracy_before`` is not positive.

    Example:
      >>> pruning_stability(0.45, 0.90)
      0.5

    References:
      Bartoldson et al., The Generalization-Stability Tradeoff in Neural Network Pruning, 2020.
    """
    if not accuracy_before > 0:
        raise ValueError(f"accuracy_before must be positive, got {accuracy_before}.")
    return accuracy_pruned / accuracy_before
