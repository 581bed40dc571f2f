"""LoRA beside pruned weights: masked while it trains, or when it is merged."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune._layers import Stacked
from jaxprune._tree import PyTree
from jaxprune.adapters._adapters import Adapters, Kind, Where, build


def mask_lora(
    params: PyTree,
    mask: PyTree,
    *,
    key: jax.Array,
    rank: int = 16,
    alpha: float = 32.0,
    where: Where | None = None,
    also: Where | None = None,
    stacked: Stacked | None = None,
) -> Adapters:
    """MaskLoRA: low-rank changes of the weights that stay.

    The forward pass sees ``mask * (W + alpha / rank * left @ right)``. What is merged is what was
    trained: the product never touches a pruned weight. At the start ``right`` is zero, so nothing
    changes, and ``left`` is uniform in ``+-1 / sqrt(rows)``.

    Args:
      params: the pruned parameters. Not changed; they stay as they are during training.
      mask: their mask, True = kept.
      key: a JAX random key.
      rank: rank of the product, of every layer. A weight with fewer rows or columns has as many.
      alpha: scale of the change.
      where: ``where(path, leaf) -> bool``: which of the pruned weights have factors; all by
        default.
      also: ``also(path, leaf) -> bool``: leaves outside of the mask that are trained whole, such as
        biases and the scales of norms; none by default.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The adapters, float32 (float64 beside weights of that type).

    Raises:
      ValueError: if the mask is of another tree, ``rank`` is below 1, ``also`` selects a pruned
        weight, or nothing would be trained.
      TypeError: if the mask is not boolean, or a leaf that is chosen not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.arange(1.0, 13.0).reshape(4, 3), "bias": jnp.zeros(3)}
      >>> pruned, mask = jp.prune(params, 0.5)
      >>> adapters = jp.adapters.mask_lora(
      ...     pruned, mask, rank=2, key=jax.random.key(0), also=lambda path, leaf: path == "bias"
      ... )
      >>> [x.shape for x in jax.tree.leaves(adapters)]
      [(3,), (4, 2), (2, 3)]
      >>> merged = jp.adapters.merge(pruned, adapters, mask)
      >>> bool(jnp.all(merged["kernel"] == pruned["kernel"]))
      True

    References:
      Zimmer et al., PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs, 2023. Hu et
      al., LoRA, ICLR 2022.
    """
    return _lora("mask_lora", params, mask, key, rank, alpha, where, also, stacked)


def lora(
    params: PyTree,
    mask: PyTree,
    *,
    key: jax.Array,
    rank: int = 16,
    alpha: float = 32.0,
    where: Where | None = None,
    also: Where | None = None,
    stacked: Stacked | None = None,
) -> Adapters:
    """LoRA that is pruned when it is merged.

    The forward pass sees ``mask * W + alpha / rank * left @ right``, which is dense; `merge` cuts
    the product to the mask, and what it removes is lost. That costs accuracy at high sparsity:
    `mask_lora` has no such gap. Arguments, results and errors are those of `mask_lora`.

    References:
      Zimmer et al., PERP, 2023 (LoRA-Prune). Hu et al., LoRA, ICLR 2022.
    """
    return _lora("lora", params, mask, key, rank, alpha, where, also, stacked)


def _lora(
    kind: Kind,
    params: PyTree,
    mask: PyTree,
    key: jax.Array,
    rank: int,
    alpha: float,
    where: Where | None,
    also: Where | None,
    stacked: Stacked | None,
) -> Adapters:
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha is a positive number; got {alpha}.")

    def make(number: int, layers: Any, rows: Any, columns: Any, dtype: Any) -> Any:
        bound = 1 / math.sqrt(math.prod(rows[:-1]))
        drawn = jax.random.uniform(
            jax.random.fold_in(key, number), (*layers, *rows), dtype, -bound, bound
        )
        return drawn, jnp.zeros((*layers, *columns), dtype)

    return build(
        params,
        mask,
        make,
        rank=rank,
        kind=kind,
        alpha=float(alpha),
        where=where,
        also=also,
        stacked=stacked,
    )
