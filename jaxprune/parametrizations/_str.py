"""Soft threshold weight reparameterization (STR)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import _checks, _eager, _tree
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree, Where
from jaxprune.parametrizations import _leaves
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations._parametrization import Parametrization, StepState


class StrTrainable(NamedTuple):
    """What `str_` trains.

    Attributes:
      params: the dense weights.
      thresholds: a partial tree of ``params``: s, one scalar for each prunable leaf, or one for
        each layer stacked in it, of the shape of the stacked axes; float32 at least.
    """

    params: PyTree
    thresholds: PyTree


def str_(
    *,
    initial: float = -5.0,
    threshold: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Parametrization:
    r"""Soft threshold weight reparameterization (STR): one trained threshold for each leaf.

    $$\hat w = \mathrm{sign}(w)\, \mathrm{ReLU}(|w| - g(s)), \qquad
      \frac{\partial \hat w}{\partial w} = 1[|w| > g(s)], \qquad
      \frac{\partial \hat w}{\partial s} = -\mathrm{sign}(w)\, 1[|w| > g(s)]\, g'(s),$$

    with g the sigmoid. The sparsity is not set but results: from the weight decay of the optimizer,
    which shrinks w and pulls s towards 0, where the threshold is 1/2, and from the gradient of s.
    Weight decay has to cover ``thresholds`` for that, as it does when the optimizer is given all
    of ``trainable``.

    ``finalize`` keeps the **soft-thresholded** values (the weights minus the threshold), which are
    what the network was trained with; the mask is $|w| > g(s)$.

    Args:
      initial: the s that every leaf starts with. By default the threshold starts at 0.0067. In the
        paper's runs on ImageNet it is -3200 for about 90 % (with weight decay 2.2518e-5): there the
        sigmoid and its derivative are 0, so that at first only weight decay moves s.
      threshold: g, elementwise, differentiable and not negative; `jax.numpy.exp` is an alternative.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The parametrization; its penalty is 0, its trainable a `StrTrainable`.

    Raises:
      ValueError: if ``initial`` is not finite.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import parametrizations
      >>> p = parametrizations.str_(initial=0.0)
      >>> trainable, state = p.init({"kernel": jnp.array([[0.25, -2.0]])})
      >>> p.apply(trainable, state)[0]["kernel"]
      Array([[ 0. , -1.5]], dtype=float32)

    References:
      Kusupati, Ramanujan, Somani, Wortsman, Jain, Kakade, Farhadi, Soft Threshold Weight
      Reparameterization for Learnable Sparsity, ICML 2020.
    """
    initial = _checks.check_number("initial", initial, low=-float("inf"))
    if not callable(threshold):
        raise TypeError(f"threshold must be a function such as jax.nn.sigmoid; got {threshold!r}.")
    _checks.check_function("where", where)

    def beside(w: jax.Array, leaf: _leaves.Leaf, s: jax.Array) -> jax.Array:
        return threshold(jnp.expand_dims(s, [i for i in range(w.ndim) if i not in leaf.stacked]))

    def kept(w: jax.Array, leaf: _leaves.Leaf, s: jax.Array) -> jax.Array:
        # Not `|w| > g(s)`: a NaN stays in sight.
        return ~(jnp.abs(_leaves.widened(w)) <= beside(w, leaf, s))

    def soft(w: jax.Array, leaf: _leaves.Leaf, s: jax.Array) -> jax.Array:
        # Selected instead of multiplied by relu's zero, which could be -0.0.
        wide = _leaves.widened(w)
        shrunk = jnp.sign(wide) * (jnp.abs(wide) - beside(w, leaf, s))
        return jnp.where(kept(w, leaf, s), shrunk, jnp.zeros_like(shrunk)).astype(w.dtype)

    def init(params: PyTree) -> tuple[StrTrainable, StepState]:
        copy = _p.copied(params)
        weights = _tree.prunable(copy, where)

        def first(w: jax.Array, leaf: _leaves.Leaf) -> jax.Array:
            shape = tuple(w.shape[axis] for axis in leaf.stacked)
            return _eager.full(shape, initial, _tree.wide_dtype(w.dtype))

        thresholds = jax.tree.map(first, weights, _leaves.described(weights, weights, stacked))
        return StrTrainable(copy, thresholds), StepState(_p.first_step())

    def apply(trainable: Any, state: Any) -> tuple[PyTree, StepState]:
        weights, thresholds = trainable
        described = _leaves.described(weights, thresholds, stacked)
        params = _leaves.map_extra(soft, weights, described, thresholds)
        return params, StepState(_p.next_step(state.step))

    def finalize(trainable: Any, state: Any) -> tuple[PyTree, PyTree]:
        weights, thresholds = trainable
        described = _leaves.described(weights, thresholds, stacked)
        mask = _leaves.map_prunable(kept, weights, described, thresholds)
        _p.warn_collapsed(mask, stacked)
        return apply(trainable, state)[0], mask

    return Parametrization(init, apply, _p.no_penalty, finalize)
