"""Pruning in many small steps, with scores taken anew after each."""

from __future__ import annotations

from collections.abc import Callable

from jaxprune import _tree
from jaxprune._count import check_sparsity
from jaxprune._layers import Stacked, with_stacked
from jaxprune._tree import PyTree
from jaxprune.masks._apply import apply_mask
from jaxprune.masks._make import make_with_info
from jaxprune.masks.allocations import Allocation


def prune_iteratively(
    params: PyTree,
    sparsity: float,
    *,
    scores: Callable[[PyTree], PyTree],
    iterations: int = 100,
    allocation: Allocation | None = None,
    stacked: Stacked | None = None,
) -> tuple[PyTree, PyTree]:
    """Prunes to a sparsity in steps without training, and scores what is left anew in each.

    After step i of k the density is ``(1 - sparsity) ** (i / k)``, so each step removes the same
    fraction of what is left. Criteria that look at a whole path through the network, such as
    `jaxprune.scores.synflow`, cut it through if they prune at once; step by step they do not.

    Args:
      params: any pytree of arrays.
      sparsity: fraction removed of the prunable weights at the end, in [0, 1); a Python number,
        not a traced one.
      scores: ``scores(params) -> scores``; called on the parameters pruned so far. Compile it
        (`jax.jit`) if it is slow.
      iterations: steps.
      allocation: how each step's total is spread; `jaxprune.masks.globally()` if omitted.
      stacked: where leaves hold several layers; as for `make`.

    Returns:
      The pruned parameters and the mask.

    Raises:
      ValueError: as `prune`, and if ``iterations`` is not positive.
      TypeError: if ``scores`` is not a function, or ``sparsity`` not a number known now.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"w": jnp.arange(1.0, 9.0).reshape(2, 4)}
      >>> pruned, mask = prune_iteratively(params, 0.75, scores=jp.scores.magnitude, iterations=3)
      >>> mask["w"].tolist()
      [[False, False, False, False], [False, False, True, True]]

    References:
      Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic
      flow, NeurIPS 2020, algorithm 1.
    """
    if not callable(scores):
        raise TypeError(
            "scores is a function from parameters to scores; every step needs new ones."
        )
    if iterations < 1:
        raise ValueError(f"iterations is the number of steps, at least 1; got {iterations}.")
    if _tree.is_traced(sparsity):
        raise TypeError(
            "prune_iteratively needs its sparsity as a Python number, to find that of each step; "
            f"got the traced {sparsity}. Make it a static argument of the compiled function "
            "(jax.jit(..., static_argnames=...)), or call prune_iteratively outside of it."
        )
    check_sparsity(sparsity)
    _tree.check_finite(_tree.prunable(params, lambda path, leaf: _tree.is_floating(leaf)))
    scores = with_stacked(scores, stacked)
    mask = None
    for i in range(1, iterations + 1):
        target = sparsity if i == iterations else 1 - (1 - sparsity) ** (i / iterations)
        mask, info = make_with_info(
            scores(params), target, within=mask, allocation=allocation, stacked=stacked
        )
        if not _tree.is_traced(info):
            info.check(may_remove_nothing=True)  # of a small network a step may be below one weight
        params = apply_mask(params, mask)
    return params, mask
