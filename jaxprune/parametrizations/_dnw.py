"""Discovering neural wirings (DNW): the top weights of every forward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _checks, _eager, _tree, masks
from jaxprune._layers import Stacked
from jaxprune._scoring import Scores
from jaxprune._targets import check_not_sparser
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations import _scoring
from jaxprune.parametrizations._parametrization import Parametrization, StepState
from jaxprune.parametrizations._ste import masked


def dnw(
    sparsity: float | None,
    *,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Parametrization:
    r"""Discovering neural wirings (DNW): constant sparsity, a new mask in every forward pass.

    $$\hat w = m(w) \odot w, \qquad
      \frac{\partial L}{\partial w} := \frac{\partial L}{\partial \hat w},$$

    where the mask $m(w)$ keeps the weights of largest magnitude, of those that are stored now. All
    weights are trained by the straight-through gradient, so pruned ones return when they have
    grown enough.

    The threshold is global by default, as in the comparison of Zimmer et al., so that the method
    meets the same total sparsity, spread over the layers in the same way, as magnitude pruning.
    The original takes the top fraction of each layer: ``allocation=jaxprune.masks.uniform()``.

    ``trainable`` is the dense parameters. ``finalize`` applies the mask of the last weights.

    Args:
      sparsity: fraction removed, in [0, 1), from the first step to the last; `None` where an N:M
        pattern or an allocation `per_leaf` fixes it.
      scores: ``params -> scores``, higher stays; magnitude if omitted.
      allocation: how the total is spread over the leaves; `jaxprune.masks.globally()` if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The parametrization; its penalty is 0.

    Raises:
      ValueError: if the sparsity lies outside [0, 1). From ``init``: if it, the allocation or the
        pattern does not fit the parameters.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import parametrizations
      >>> p = parametrizations.dnw(0.5)
      >>> trainable, state = p.init({"kernel": jnp.array([[1.0, -3.0], [2.0, 0.5]])})
      >>> p.apply(trainable, state)[0]["kernel"]
      Array([[ 0., -3.],
             [ 2.,  0.]], dtype=float32)

    References:
      Wortsman, Farhadi, Rastegari, Discovering Neural Wirings, NeurIPS 2019; Zimmer, Spiegel,
      Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    if sparsity is not None:
        sparsity = _checks.check_fraction("sparsity", sparsity)
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    score = _scoring.scorer(scores, where, **rules)

    def mask_of(trainable: PyTree) -> PyTree:
        return _scoring.make(score(trainable), sparsity, **rules)

    def init(params: PyTree) -> tuple[PyTree, StepState]:
        shapes = jax.eval_shape(score, params)
        masks.check_fit(shapes, [sparsity], **rules)
        copy = _p.copied(params)
        dense = _tree.map_partial(
            lambda s, p: None if s is None else _eager.full_like(p, True, jnp.bool_), shapes, copy
        )
        check_not_sparser(dense, copy, [sparsity], name="dnw")
        return copy, StepState(_p.first_step())

    def apply(trainable: PyTree, state: Any) -> tuple[PyTree, StepState]:
        params = masked(trainable, mask_of(trainable))
        return params, StepState(_p.next_step(state.step))

    def finalize(trainable: PyTree, state: Any) -> tuple[PyTree, PyTree]:
        del state  # the same rule at every step
        mask = mask_of(trainable)
        _p.warn_collapsed(mask, stacked)
        return masks.apply_mask(trainable, mask), mask

    return Parametrization(init, apply, _p.no_penalty, finalize)
