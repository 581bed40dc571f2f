"""Matrices to prune: random kernels behind inputs that are correlated, as those of networks are."""

from typing import NamedTuple

import numpy as np

import jaxprune as jp


class Problem(NamedTuple):
    """A kernel with the Gram matrices of two samples of its inputs."""

    kernel: np.ndarray
    gram: np.ndarray
    held_out: np.ndarray


def correlated(inputs: int, outputs: int, seed: int) -> Problem:
    """Inputs of some hundred directions with falling variances, a few of them large, and noise.

    Both samples are of one distribution, eight examples an input each.
    """
    rng = np.random.default_rng(seed)
    rank = max(1, inputs // 3)
    mix = rng.normal(size=(rank, inputs)) * np.linspace(1.5, 0.2, rank)[:, None] / np.sqrt(rank)
    scale = np.exp(0.7 * rng.normal(size=inputs))  # outlying channels

    def gram() -> np.ndarray:
        x = rng.normal(size=(8 * inputs, rank)) @ mix
        x = (x + 0.3 * rng.normal(size=x.shape)) * scale
        return (x.T @ x).astype(np.float32)

    kernel = rng.normal(size=(inputs, outputs)).astype(np.float32) / np.sqrt(inputs)
    return Problem(kernel, gram(), gram())


PATTERNS = {
    "0.5": (0.5, None),
    "0.7": (0.7, None),
    "2:4": (None, jp.masks.nm(2, 4, axis=0)),
}
"""Name -> sparsity and pattern."""
