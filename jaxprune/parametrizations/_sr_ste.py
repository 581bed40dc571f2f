"""Sparse-refined straight-through estimator (SR-STE): N:M sparsity from the first step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _checks, _layers, masks
from jaxprune._layers import Stacked
from jaxprune._scoring import Scores
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Pattern
from jaxprune.parametrizations import _leaves, _scoring
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations._parametrization import Parametrization, StepState
from jaxprune.parametrizations._ste import masked


def sr_ste(
    pattern: Pattern,
    *,
    decay: float = 2e-4,
    scores: Scores | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Parametrization:
    r"""Sparse-refined straight-through estimator (SR-STE) for N:M sparsity.

    $$\hat w = m(w) \odot w, \qquad
      \text{gradient of } w := \frac{\partial L}{\partial \hat w} + \lambda\, (1 - m(w)) \odot w,$$

    where $m(w)$ keeps the n largest of every m weights, in every forward pass. The second term,
    without which this is the plain straight-through estimator, decays the weights that are pruned
    now and so keeps the masks from flickering. It comes from the penalty
    $\frac{\lambda}{2} \lVert (1 - m) \odot w \rVert^2$ with a constant mask: **add the penalty to
    the loss**.

    ``trainable`` is the dense parameters. ``finalize`` applies the mask of the last weights.

    Args:
      pattern: which weights go together, e.g. ``jaxprune.masks.nm(2, 4, layout="flax")``. Leaves
        for which it is `None` stay dense.
      decay: $\lambda \geq 0$.
      scores: ``params -> scores``, higher stays; magnitude if omitted.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The parametrization.

    Raises:
      ValueError: if ``decay`` is negative or not finite. From ``init``: if the pattern fits no
        leaf, does not fit one, or does not fix the sparsity.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> from jaxprune import parametrizations
      >>> p = parametrizations.sr_ste(jp.masks.nm(1, 2, axis=0), decay=0.5)
      >>> trainable, state = p.init({"kernel": jnp.array([[1.0], [-3.0]])})
      >>> p.apply(trainable, state)[0]["kernel"]
      Array([[ 0.],
             [-3.]], dtype=float32)
      >>> p.penalty(trainable, state)
      Array(0.25, dtype=float32)

    References:
      Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun, Li, Learning N:M Fine-grained Structured Sparse Neural
      Networks From Scratch, ICLR 2021.
    """
    if not callable(pattern):
        raise TypeError(
            f"pattern must be a function such as jp.masks.nm(2, 4, layout='flax'), but it is "
            f"{pattern!r}."
        )
    decay = _checks.check_number("decay", decay, low=0.0)
    score = _scoring.scorer(scores, where, stacked=stacked)

    def mask_of(trainable: PyTree) -> PyTree:
        return _scoring.make(score(trainable), None, pattern=pattern, stacked=stacked)

    def init(params: PyTree) -> tuple[PyTree, StepState]:
        like = jax.eval_shape(score, params)
        _check_pattern(pattern, like, stacked)
        masks.check_fit(like, [None], pattern=pattern, stacked=stacked)
        return _p.copied(params), StepState(_p.first_step())

    def apply(trainable: PyTree, state: Any) -> tuple[PyTree, StepState]:
        params = masked(trainable, mask_of(trainable))
        return params, StepState(_p.next_step(state.step))

    def penalty(trainable: PyTree, state: Any) -> jax.Array:
        del state  # the same rule at every step

        def of_pruned(w: jax.Array, m: jax.Array) -> jax.Array:
            return decay * _leaves.half_squares(jnp.where(m, jnp.zeros_like(w), w))

        return _leaves.total(of_pruned, trainable, mask_of(trainable))

    def finalize(trainable: PyTree, state: Any) -> tuple[PyTree, PyTree]:
        del state
        mask = mask_of(trainable)
        return masks.apply_mask(trainable, mask), mask

    return Parametrization(init, apply, penalty, finalize)


def _check_pattern(pattern: Pattern, like: PyTree, stacked: Stacked | None) -> None:
    named = _layers.named(like, _layers.axes_of(stacked, like))
    specs = [pattern(path, leaf) for path, leaf in named]
    for (path, _), spec in zip(named, specs, strict=True):
        if spec is not None and getattr(spec, "kept", 0) is None:
            raise ValueError(
                f"sr_ste takes patterns that fix the sparsity (N:M), but the one of {path!r}, "
                f"{spec}, does not. Use dnw(sparsity, pattern=pattern)."
            )
    if all(spec is None for spec in specs):
        paths = ", ".join(repr(path) for path, _ in named[:8])
        raise ValueError(
            f"the pattern is None for each of the {len(named)} prunable leaves ({paths}), so "
            "nothing would be pruned."
        )
