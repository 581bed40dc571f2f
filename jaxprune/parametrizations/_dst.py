"""Dynamic sparse training (DST): a trained threshold for each output unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import _checks, _eager, _tree
from jaxprune._layers import Stacked
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree, Where
from jaxprune.parametrizations import _dst_units as _units
from jaxprune.parametrizations import _leaves
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations._parametrization import Parametrization


class DstTrainable(NamedTuple):
    """What `dst` trains.

    Attributes:
      params: the dense weights.
      thresholds: a partial tree of ``params``: one number for each output unit, of the shape of the
        output axes, float32 at least.
    """

    params: PyTree
    thresholds: PyTree


class DstState(NamedTuple):
    """State of `dst`.

    Attributes:
      step: int32 scalar, how often `apply` has been called.
      offsets: a tree like ``thresholds``: what a threshold was when it was last reset, 0 before.
        The threshold in force is ``thresholds - offsets``.
    """

    step: jax.Array
    offsets: PyTree


def dst(
    penalty: float = 5e-6,
    *,
    weight_decay: float = 0.0,
    reset_at: float = 0.01,
    axis: _units.Axes | Callable[[str, Any], _units.Axes] | None = None,
    layout: Literal["flax", "haiku", "equinox"] | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Parametrization:
    r"""Dynamic sparse training (DST): trained thresholds, one for each output unit.

    $$\hat w_{oi} = w_{oi}\, H(|w_{oi}| - t_o), \qquad
      \text{penalty} = \alpha \sum_o e^{-t_o} + \frac{\delta}{2} \sum w^2,$$

    with the step function H(x) = 1 for x > 0, else 0, differentiated as the long-tailed

    $$H'(x) := 2 - 4|x| \text{ for } |x| \leq 0.4, \qquad 0.4 \text{ for } 0.4 < |x| \leq 1,
      \qquad 0 \text{ beyond}.$$

    The rest is the chain rule: with g the gradient of $\hat w$, w gets
    $g\,(H + w\,H'\,\mathrm{sign}(w))$, also where it is pruned, and $t_o$ gets
    $-\sum_i g_{oi} w_{oi} H'$. Thresholds start at 0. Where a leaf keeps no more than the fraction
    ``reset_at`` of its weights, its thresholds restart at 0 before that forward pass. The sparsity
    is not set but results, mostly from $\alpha$.

    The optimizer's weight decay acts on all that it is given; the code of Zimmer et al. decays the
    weights by the penalty as well, hence twice. ``weight_decay`` is there to do likewise and 0 by
    default, because one decay is what the original trains with.

    The authors' code restarts a threshold by writing 0 over it, between two steps of the optimizer.
    Wrap the optimizer in `dst_resets` for that; `jaxprune.methods.dst` does. A forward pass alone
    cannot write what the optimizer owns. Without the wrapper it notes an offset, from which the
    threshold counts anew. That is the same unless the optimizer decays thresholds: it then draws
    them towards minus the offset instead of 0.

    Args:
      penalty: $\alpha \geq 0$. It is added up over output units, not averaged. 5e-6 is the
        original's for VGG-16 and wide residual networks on CIFAR.
      weight_decay: $\delta \geq 0$, over prunable weights.
      reset_at: fraction **kept** of a leaf, in [0, 1), at which its thresholds restart.
      axis: the output axis or axes of a leaf, negative from the last, or a function
        ``(path, leaf) -> axis``.
      layout: the framework that says where output axes are: "flax" and "haiku" (the default) have
        them last, and the ``query``, ``key`` and ``value`` kernels of Flax's attention,
        ``[in, heads, head_dim]``, have two; "equinox", as PyTorch, has them first. At most one of
        ``axis`` and ``layout``.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The parametrization; its trainable is a `DstTrainable`, its state a `DstState`. ``finalize``
      gives the weights that the next `apply` would show, and their mask.

    Raises:
      ValueError: if a number is out of range, a word unknown, or both ``axis`` and ``layout`` are
        given. From ``init``: if a leaf does not have the axis, or has 2**32 entries or more.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import parametrizations
      >>> p = parametrizations.dst()
      >>> trainable, state = p.init({"kernel": jnp.array([[0.5, -2.0], [1.5, 0.25]])})
      >>> trainable = trainable._replace(thresholds={"kernel": jnp.array([1.0, 0.0])})
      >>> p.apply(trainable, state)[0]["kernel"]
      Array([[ 0.  , -2.  ],
             [ 1.5 ,  0.25]], dtype=float32)

    References:
      Liu, Xu, Shi, Cheung, So, Dynamic Sparse Training: Find Efficient Sparse Network From Scratch
      With Trainable Masked Layers, ICLR 2020.
    """
    rate = _checks.check_number("penalty", penalty, low=0.0)
    decay = _checks.check_number("weight_decay", weight_decay, low=0.0)
    reset_at = _units.check_fraction_kept(reset_at)
    units = _units.Units(axis, layout)
    _checks.check_function("where", where)

    def offset(w: jax.Array, leaf: _leaves.Leaf, t: jax.Array, before: jax.Array) -> jax.Array:
        return jnp.where(units.are_due(w, leaf, t - before, reset_at), t, before)

    def effective(trainable: Any, state: Any) -> tuple[PyTree, PyTree, PyTree]:
        """What is known of the leaves, the thresholds in force, and what they count from."""
        params, thresholds = trainable
        leaves = _leaves.described(params, thresholds, stacked)
        held = jax.lax.stop_gradient((params, thresholds))
        offsets = _leaves.map_prunable(offset, held[0], leaves, held[1], state.offsets)
        in_force = _leaves.map_prunable(lambda _, t, o: t - o, params, thresholds, offsets)
        return leaves, in_force, offsets

    def init(params: PyTree) -> tuple[DstTrainable, DstState]:
        copy = _p.copied(params)
        weights = _tree.prunable(copy, where)

        def zeros(w: jax.Array, leaf: _leaves.Leaf) -> jax.Array:
            if w.size >= 2**32:
                raise ValueError(f"{leaf.path!r} has {w.size} entries, but dst counts below 2**32.")
            shape = tuple(w.shape[axis] for axis in units.axes(w, leaf))
            return _eager.full(shape, 0, _tree.wide_dtype(w.dtype))

        leaves = _leaves.described(weights, weights, stacked)
        # Made twice: an array that is both trained and state could not be donated.
        thresholds, offsets = (jax.tree.map(zeros, weights, leaves) for _ in range(2))
        return DstTrainable(copy, thresholds), DstState(_p.first_step(), offsets)

    def weights_of(params: PyTree, leaves: PyTree, thresholds: PyTree) -> PyTree:
        def gated(w: jax.Array, leaf: _leaves.Leaf, t: jax.Array) -> jax.Array:
            return _gated(_leaves.widened(w), units.over(w, leaf, t)).astype(w.dtype)

        return _leaves.map_extra(gated, params, leaves, thresholds)

    def apply(trainable: Any, state: Any) -> tuple[PyTree, DstState]:
        leaves, thresholds, offsets = effective(trainable, state)
        params = weights_of(trainable.params, leaves, thresholds)
        return params, DstState(_p.next_step(state.step), offsets)

    def penalty_of(trainable: Any, state: Any) -> jax.Array:
        def of_leaf(w: jax.Array, t: jax.Array) -> jax.Array:
            value = rate * jnp.sum(jnp.exp(-t))
            # Left out rather than multiplied by 0: a pass over the weights.
            return value + decay * _leaves.half_squares(w).astype(value.dtype) if decay else value

        return _leaves.total(of_leaf, trainable.params, effective(trainable, state)[1])

    def is_kept(w: jax.Array, leaf: _leaves.Leaf, t: jax.Array) -> jax.Array:
        return _units.step(units.over(w, leaf, t))

    def finalize(trainable: Any, state: Any) -> tuple[PyTree, PyTree]:
        leaves, thresholds, _ = effective(trainable, state)
        mask = _leaves.map_prunable(is_kept, trainable.params, leaves, thresholds)
        _p.warn_collapsed(mask, stacked)
        return weights_of(trainable.params, leaves, thresholds), mask

    return Parametrization(init, apply, penalty_of, finalize)


@jax.custom_jvp
def _gated(w: jax.Array, x: jax.Array) -> jax.Array:
    """``w H(x)``, differentiated with the long-tailed H'. A selection, so that zeros are exact."""
    return or_zero(_units.step(x), w)


@_gated.defjvp
def _gated_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (w, x), (dw, dx) = primals, tangents
    size = jnp.abs(x)
    tail = jnp.where(size <= 1, jnp.full_like(x, 0.4), jnp.zeros_like(x))
    slope = jnp.where(size <= 0.4, 2 - 4 * size, tail)
    return _gated(w, x), _gated(dw, x) + w * slope * dx
