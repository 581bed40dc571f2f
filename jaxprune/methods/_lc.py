"""LC as a recipe."""

from typing import Any

import optax

from jaxprune import transforms
from jaxprune._tree import Where
from jaxprune.masks import Allocation
from jaxprune.methods._defaults import magnitude_prune
from jaxprune.methods._method import Method


def lc(
    sparsity: float,
    *,
    weight_decay: Any = None,
    ranked: Where | None = None,
    allocation: Allocation | None = None,
    where: Where | None = None,
    **options: Any,
) -> Method:
    """Learning-compression (LC): `jaxprune.transforms.lc` before the optimizer, then a prune.

    The optimizer is to have no weight decay of its own: this one decays the small weights only.

    Args:
      sparsity: fraction removed in the end, in (0, 1).
      weight_decay: strength of the selective decay; 1e-3 if neither this nor ``mu`` is given.
      ranked: ``where`` of the transform: among which weights the largest are spared; all
        parameters if omitted, as in the code of Zimmer et al.
      allocation: how the total is spread over leaves, for the final prune.
      where: what is prunable.
      **options: further options of the transform, e.g. ``mu`` for the original's alternation.

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
    if weight_decay is None and options.get("mu") is None:
        weight_decay = 1e-3
    edit = transforms.lc(sparsity, weight_decay, where=ranked, **options)

    def transform(optimizer: Any) -> optax.GradientTransformationExtraArgs:
        return optax.chain(edit, optimizer)

    final = magnitude_prune(sparsity, allocation=allocation, where=where)
    return Method("lc", sparsity, transform=transform, final_prune=final)
