"""Dynamic sparse training (DST): a trained threshold for each output unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune import _checks, _eager, _tree
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree, Where
from jaxprune.parametrizations import _leaves
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations._parametrization import Parametrization

Axes: TypeAlias = int | tuple[int, ...]


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
    axis: Axes | Callable[[str, Any], Axes] | None = None,
    layout: Literal["flax", "haiku", "equinox"] | None = None,
    where: Where | None = None,
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
    default, because one decay is what the original trains with. A reset moves an offset and leaves
    the optimizer's thresholds as they are, so after one the optimizer's decay draws a threshold
    towards minus that offset instead of 0; to keep it from thresholds, mask it
    (``optax.add_decayed_weights(decay, mask=...)``).

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
    reset_at = _checks.check_number("reset_at", reset_at, low=0.0)
    if reset_at >= 1:
        raise ValueError(f"reset_at is {reset_at}, but a fraction kept must lie in [0, 1).")
    if axis is not None and layout is not None:
        raise ValueError("pass either axis=, the output axis, or layout=, the framework.")
    if layout not in (None, "flax", "haiku", "equinox"):
        raise ValueError(f"layout is 'flax', 'haiku' or 'equinox'; got {layout!r}.")
    _checks.check_function("where", where)
    if axis is not None and not callable(axis) and not isinstance(axis, (int, tuple)):
        raise TypeError(f"axis is an integer, a tuple of them or a function; got {axis!r}.")

    def axes_of(path: str, leaf: Any) -> tuple[int, ...]:
        if axis is not None:
            return _checked(axis(path, leaf) if callable(axis) else axis, path, leaf)
        if layout == "equinox":
            return (0,)
        attention = leaf.ndim > 2 and _tree.owner(path) in ("query", "key", "value")
        return (leaf.ndim - 2, leaf.ndim - 1) if attention else (leaf.ndim - 1,)

    def over(w: jax.Array, path: str, t: jax.Array) -> jax.Array:
        others = tuple(i for i in range(w.ndim) if i not in axes_of(path, w))
        return jnp.abs(_leaves.widened(w)) - jnp.expand_dims(t, others)

    def offset(w: jax.Array, path: str, t: jax.Array, before: jax.Array) -> jax.Array:
        # The original overwrites a threshold by 0 in the forward pass, behind the optimizer's back.
        # A pure function cannot write what the optimizer owns, so it notes the value from which the
        # threshold counts anew: t - offset is 0 after a reset and moves as a threshold refilled
        # with 0 would, momentum included. One thing differs: weight decay of the optimizer, if it
        # covers thresholds, pulls t towards 0 and so the threshold in force towards -offset.
        kept = jnp.sum(_step(over(w, path, t - before)), dtype=jnp.uint32)
        return jnp.where(kept <= _limit(reset_at, w.size), t, before)

    def effective(trainable: Any, state: Any) -> tuple[PyTree, PyTree, PyTree]:
        """The paths, the thresholds in force, and the offsets that they count from."""
        params, thresholds = trainable
        paths = jax.tree_util.tree_map_with_path(
            lambda path, _: _tree.path_string(path), params, is_leaf=_tree.is_absent
        )
        held = jax.lax.stop_gradient((params, thresholds))
        offsets = _leaves.map_prunable(offset, held[0], paths, held[1], state.offsets)
        in_force = _leaves.map_prunable(lambda _, t, o: t - o, params, thresholds, offsets)
        return paths, in_force, offsets

    def init(params: PyTree) -> tuple[DstTrainable, DstState]:
        copy = _p.copied(params)
        weights = _tree.prunable(copy, where)

        def zeros(path: tuple[Any, ...], w: Any) -> jax.Array:
            name = _tree.path_string(path)
            if w.size >= 2**32:
                raise ValueError(f"{name!r} has {w.size} entries, but dst counts below 2**32.")
            shape = tuple(w.shape[i] for i in axes_of(name, w))
            return _eager.full(shape, 0, _tree.wide_dtype(w.dtype))

        # Made twice: an array that is both trained and state could not be donated.
        thresholds, offsets = (jax.tree_util.tree_map_with_path(zeros, weights) for _ in range(2))
        return DstTrainable(copy, thresholds), DstState(_p.first_step(), offsets)

    def weights_of(params: PyTree, paths: PyTree, thresholds: PyTree) -> PyTree:
        def gated(w: jax.Array, path: str, t: jax.Array) -> jax.Array:
            return _gated(_leaves.widened(w), over(w, path, t)).astype(w.dtype)

        return _leaves.map_extra(gated, params, paths, thresholds)

    def apply(trainable: Any, state: Any) -> tuple[PyTree, DstState]:
        paths, thresholds, offsets = effective(trainable, state)
        params = weights_of(trainable.params, paths, thresholds)
        return params, DstState(_p.next_step(state.step), offsets)

    def penalty_of(trainable: Any, state: Any) -> jax.Array:
        def of_leaf(w: jax.Array, t: jax.Array) -> jax.Array:
            value = rate * jnp.sum(jnp.exp(-t))
            # Left out rather than multiplied by 0: a pass over the weights.
            return value + decay * _leaves.half_squares(w).astype(value.dtype) if decay else value

        return _leaves.total(of_leaf, trainable.params, effective(trainable, state)[1])

    def finalize(trainable: Any, state: Any) -> tuple[PyTree, PyTree]:
        paths, thresholds, _ = effective(trainable, state)
        mask = _leaves.map_prunable(
            lambda w, path, t: _step(over(w, path, t)), trainable.params, paths, thresholds
        )
        _p.warn_collapsed(mask)
        return weights_of(trainable.params, paths, thresholds), mask

    return Parametrization(init, apply, penalty_of, finalize)


def _step(x: jax.Array) -> jax.Array:
    return ~(x <= 0)  # not `x > 0`: a NaN stays in sight


@jax.custom_jvp
def _gated(w: jax.Array, x: jax.Array) -> jax.Array:
    """``w H(x)``, differentiated with the long-tailed H'. A selection, so that zeros are exact."""
    return or_zero(_step(x), w)


@_gated.defjvp
def _gated_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (w, x), (dw, dx) = primals, tangents
    size = jnp.abs(x)
    tail = jnp.where(size <= 1, jnp.full_like(x, 0.4), jnp.zeros_like(x))
    slope = jnp.where(size <= 0.4, 2 - 4 * size, tail)
    return _gated(w, x), _gated(dw, x) + w * slope * dx


def _limit(fraction: float, size: int) -> int:
    # 0.29 * 100 is 28.999...: a product within round-off of an integer counts as that integer.
    return math.floor(fraction * size * (1 + 1e-14))


def _checked(axes: Any, path: str, leaf: Any) -> tuple[int, ...]:
    """The axes of a leaf, counted from the first, in their order."""
    given = axes if isinstance(axes, tuple) else (axes,)
    for axis in given:
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"axis is an integer or a tuple of them; got {axes!r} for {path!r}.")
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"axis {axis} does not exist in {path!r}, whose shape is {leaf.shape}."
            )
    places = {axis % leaf.ndim for axis in given}
    if not given or len(places) < len(given):
        raise ValueError(f"axis={axes!r} names no axis of {path!r}, or one of them twice.")
    return tuple(sorted(places))
