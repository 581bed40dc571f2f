"""DST as a recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from jaxprune import parametrizations
from jaxprune._tree import Where
from jaxprune.masks import Stacked
from jaxprune.methods._method import Method


def dst(
    *,
    penalty: float = 5e-6,
    weight_decay: float = 0.0,
    reset_at: float = 0.01,
    axis: int | tuple[int, ...] | Callable[[str, Any], int | tuple[int, ...]] | None = None,
    layout: Literal["flax", "haiku", "equinox"] | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Dynamic sparse training (DST): `jaxprune.parametrizations.dst`.

    The sparsity follows from the penalty; it is not controlled.

    Args:
      penalty: of low thresholds, added up over output units.
      weight_decay: over prunable weights.
      reset_at: fraction kept of a leaf at which its thresholds restart.
      axis: the output axis or axes of a leaf, or a function ``(path, leaf) -> axis``.
      layout: the framework that says where output axes are, instead of ``axis``.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> print(dst().sparsity)
      None

    References:
      Liu et al., Dynamic Sparse Training: Find Efficient Sparse Network From Scratch With Trainable
      Masked Layers, ICLR 2020.
    """
    p = parametrizations.dst(
        penalty,
        weight_decay=weight_decay,
        reset_at=reset_at,
        axis=axis,
        layout=layout,
        where=where,
        stacked=stacked,
    )
    resets = partial(
        parametrizations.dst_resets,
        reset_at=reset_at,
        axis=axis,
        layout=layout,
        stacked=stacked,
    )
    return Method("dst", None, transform=resets, parametrization=p)
