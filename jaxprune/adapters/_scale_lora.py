"""ScaleLoRA: low-rank factors of the weights."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jaxprune._layers import Stacked
from jaxprune._tree import PyTree
from jaxprune.adapters._adapters import Adapters, Where, build


def scale_lora(
    params: PyTree,
    mask: PyTree,
    *,
    rank: int = 16,
    where: Where | None = None,
    also: Where | None = None,
    stacked: Stacked | None = None,
) -> Adapters:
    """ScaleLoRA: multiplies the weights that stay by a matrix of low rank.

    The forward pass sees ``mask * W * (left @ right)``. All entries of both factors are
    ``1 / sqrt(rank)`` at the start, so that their product is one and nothing changes.

    Arguments, results and errors are those of `jaxprune.adapters.mask_lora`, without ``key`` and
    ``alpha``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> pruned, mask = jp.prune({"kernel": jnp.arange(1.0, 13.0).reshape(4, 3)}, 0.5)
      >>> adapters = jp.adapters.scale_lora(pruned, mask, rank=1)
      >>> adapters.tree["kernel"].product().tolist()[0]
      [1.0, 1.0, 1.0]

    References:
      Zimmer et al., PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs, 2023.
    """

    def make(number: int, layers: Any, rows: Any, columns: Any, dtype: Any) -> Any:
        del number
        value = 1 / math.sqrt(rows[-1])
        return (
            jnp.full((*layers, *rows), value, dtype),
            jnp.full((*layers, *columns), value, dtype),
        )

    return build(
        params,
        mask,
        make,
        rank=rank,
        kind="scale_lora",
        alpha=None,
        where=where,
        also=also,
        stacked=stacked,
    )
