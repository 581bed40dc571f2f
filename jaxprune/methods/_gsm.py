"""GSM as a recipe."""

from typing import Any

import optax

from jaxprune import transforms
from jaxprune._tree import Where
from jaxprune.masks import Allocation
from jaxprune.methods._defaults import magnitude_prune
from jaxprune.methods._method import Method


def gsm(
    sparsity: float,
    *,
    ranked: Where | None = None,
    allocation: Allocation | None = None,
    where: Where | None = None,
) -> Method:
    """Global sparse momentum (GSM): `jaxprune.transforms.gsm` before the optimizer, then a prune.

    The optimizer is to have momentum and weight decay, which take the other weights to zero. The
    original: momentum 0.98, learning rate 5e-3, weight decay 1e-4, from a trained network.

    Args:
      sparsity: fraction removed in the end, in (0, 1).
      ranked: ``where`` of the transform: among which weights the gradient is kept for the most
        important ones; all parameters if omitted, as in the code of Zimmer et al.
      allocation: how the total is spread over leaves, for the final prune.
      where: what is prunable.

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
    edit = transforms.gsm(sparsity, where=ranked)

    def transform(optimizer: Any) -> optax.GradientTransformationExtraArgs:
        return optax.chain(edit, optimizer)

    final = magnitude_prune(sparsity, allocation=allocation, where=where)
    return Method("gsm", sparsity, transform=transform, final_prune=final)
