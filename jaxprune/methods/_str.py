"""STR as a recipe."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxprune import parametrizations
from jaxprune._tree import Where
from jaxprune.masks import Stacked
from jaxprune.methods._method import Method


def str_(
    *,
    initial: float = -5.0,
    threshold: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Soft threshold reparametrization (STR): `jaxprune.parametrizations.str_`.

    The sparsity follows from the initial threshold and the weight decay of the optimizer; it is
    not controlled.

    Args:
      initial: what every threshold starts with, before ``threshold``.
      threshold: what makes a threshold of it, elementwise and differentiable.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> print(str_().sparsity)
      None

    References:
      Kusupati et al., Soft Threshold Weight Reparameterization for Learnable Sparsity, ICML 2020.
    """
    p = parametrizations.str_(initial=initial, threshold=threshold, where=where, stacked=stacked)
    return Method("str", None, parametrization=p)
