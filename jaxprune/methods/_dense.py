"""Dense training, for comparison."""

from __future__ import annotations

from jaxprune.methods._method import Method


def dense() -> Method:
    """No pruning at all: what the other methods are compared with.

    Returns:
      The method.

    Example:
      >>> dense().sparsity
      0.0
    """
    return Method("dense", 0.0)
