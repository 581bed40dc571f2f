"""An optimizer that keeps pruned weights at exactly zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _moments, _wrap, _zeros
from jaxprune.transforms._mask_state import PruneMask
from jaxprune.transforms._watch import Watch


class FixedMaskState(NamedTuple):
    """State of `fixed_mask`.

    Attributes:
      inner_state: the state of the wrapped optimizer.
      mask: the mask, replaced by `set_mask` and read by `get_mask`.
    """

    inner_state: optax.OptState
    mask: PruneMask


def fixed_mask(inner: Any, mask: PyTree) -> optax.GradientTransformationExtraArgs:
    r"""Wraps an optimizer so that pruned weights are exactly zero after every update.

    With mask $m$, weights $w$, gradient $g$ and optimizer state $s$, one update is

    $$u,\; s' = \mathrm{inner}(m \odot g,\; m \odot s,\; m \odot w), \qquad
      \Delta w = m \odot u - (1 - m) \odot w, \qquad s' \leftarrow m \odot s'.$$

    So kept weights move exactly as under ``inner`` with masked gradients, whatever norms or
    factored statistics it takes, and $w + \Delta w$ is exactly zero where $m$ is zero and $w$
    finite: also for weights that `set_mask` has pruned since the last step, and also when
    ``inner`` returns updates of a narrower dtype than the weights (those updates are widened).
    Copies of the weights in the state are masked too, hence the evaluation parameters of
    `optax.contrib.schedule_free` are sparse.

    Position: outermost, around the whole chain, gradient clipping included. Wrappers that decide
    *whether* a step happens may be on either side; outside (``MultiSteps(fixed_mask(...))``,
    ``apply_if_finite(fixed_mask(...))``) they also delay the zeroing of newly pruned weights to
    the next step taken. Under `optax.partition` wrap the optimizer of each label with the same
    mask, or the whole partition. `optax.lookahead` goes inside (its pair of parameters is
    understood: both copies are sparse); outside of it, or in front of anything that changes
    updates, wrap all in `keep_zeros`. Gradients of single examples are aggregated before:
    ``optax.chain(optax.contrib.differentially_private_aggregate(...), fixed_mask(...))``, with
    gradients of ``loss(jp.apply_mask(params, mask))``, lest pruned weights count in their norms.

    To differentiate through an update (meta-learning), give the optimizer what it needs where a
    gradient is zero: ``optax.adam(..., eps_root=1e-8)``. Without it Adam's square root has an
    infinite derivative there, and the result is NaN, with or without a mask.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update`` such as
        `optax.MultiSteps`.
      mask: a tree like params: bool arrays (True = kept), `None` where a leaf is not prunable,
        or a whole subtree; or a function of the parameters that returns one, called by ``init``.
        It is copied into the state by ``init``; ``update`` reads it from there.

    Returns:
      The transformation. Its ``update`` needs ``params`` and forwards extra arguments.

    Raises:
      TypeError: if ``inner`` is no optimizer, or a leaf of the mask is not bool.
      ValueError: if the mask has no leaf. From ``init``: if the mask is of another tree, or the
        state of ``inner`` mixes weights (`optax.lbfgs`, `optax.flatten`). From ``update``: if
        ``params`` is missing.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0]])}
      >>> mask = {"kernel": jnp.array([[True, False]])}
      >>> tx = transforms.fixed_mask(optax.sgd(0.5, momentum=0.9), mask)
      >>> state = tx.init(params)
      >>> grads = {"kernel": jnp.array([[1.0, 1.0]])}
      >>> updates, state = tx.update(grads, state, params)
      >>> optax.apply_updates(params, updates)
      {'kernel': Array([[0.5, 0. ]], dtype=float32)}

    References:
      Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love Retraining", ICLR 2023
      (the mask is fixed during retraining).
    """
    tx = _wrap.as_transformation(inner, name="fixed_mask")
    _mask_state.check_rule(mask)
    zeros, watch = _zeros.examiner(tx), Watch("fixed_mask")

    def init(params: PyTree) -> FixedMaskState:
        network = _wrap.network_of(params)
        node = _mask_state.store(_mask_state.given(mask, network), network)
        return FixedMaskState(_wrap.init_inner(tx, node, params), node)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, FixedMaskState]:
        _wrap.check_params(params, updates, name="fixed_mask")
        aligned = _mask_state.align(state.mask.tree, _wrap.network_of(params))
        watch.look(state.mask, aligned, params)
        kept = zeros(updates, state.inner_state, params, aligned, extra_args).kept
        updates, inner_state = _wrap.step(
            tx, updates, state.inner_state, params, aligned, extra_args
        )
        if not kept:  # a second reader of the new moments: XLA then computes them twice, and copies
            inner_state = _moments.zero_pruned(tx, inner_state, aligned)
        updates = _wrap.to_zero(aligned, updates, params)
        return updates, FixedMaskState(inner_state, watch.left(state.mask))

    return optax.GradientTransformationExtraArgs(init, update)
