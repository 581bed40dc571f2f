"""What a parametrization is, and the parts that all of them share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _eager, _layers, _tree
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree


class Parametrization(NamedTuple):
    """Four pure functions that say what the forward pass sees.

    All of them work under `jit`, `vmap`, `scan` and differentiation. `apply` and `penalty` of one
    step take the same trainable and state. What compiled code could not raise, they do not raise
    outside of it either: a leaf that loses its last weight is a warning of ``finalize``, a NaN
    weight is kept.

    Attributes:
      init: ``params -> (trainable, state)``. The arrays are copies, so that a step may donate
        them.
      apply: ``(trainable, state) -> (params, state)``: the effective weights, differentiable with
        respect to ``trainable``, dtypes kept; and the state of the next step.
      penalty: ``(trainable, state) -> scalar``: the term to add to the loss, float32.
      finalize: ``(trainable, state) -> (params, mask)``: the final parameters, pruned weights
        exactly zero, and their mask (True = kept, `None` where a leaf is not prunable).
    """

    init: Callable[[PyTree], tuple[PyTree, PyTree]]
    apply: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    penalty: Callable[[PyTree, PyTree], jax.Array]
    finalize: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class StepState(NamedTuple):
    """The state of methods that need no more than the step.

    Attributes:
      step: int32 scalar, how often `apply` has been called.
    """

    step: jax.Array


def first_step() -> jax.Array:
    """Returns the counter before the first step."""
    return _eager.full((), 0, jnp.int32)


def next_step(step: jax.Array) -> jax.Array:
    """Returns the counter after one more step; at the end of int32 it stays there."""
    return jnp.asarray(optax.safe_increment(step))


def copied(params: PyTree) -> PyTree:
    """Copies all arrays, which become strongly typed: a weak type would not survive a step."""

    def strong(x: Any) -> Any:
        if isinstance(x, (jax.Array, np.ndarray)) and not getattr(x, "weak_type", False):
            return x
        x = jnp.asarray(x)
        return jnp.asarray(x, dtype=x.dtype)

    _tree.check_untied(params)
    return _eager.copied(jax.tree.map(strong, params))


def no_penalty(trainable: PyTree, state: PyTree) -> jax.Array:
    """The penalty of methods that have none."""
    del trainable, state
    return jnp.zeros((), jnp.float32)


def warn_collapsed(mask: PyTree, stacked: Stacked | None) -> None:
    """Warns, outside `jit`, of layers that have lost every weight.

    Args:
      mask: the mask.
      stacked: where leaves hold several layers.

    Warns:
      UserWarning: naming them.
    """
    if _tree.is_traced(mask):
        return
    axes = _layers.axes_of(stacked, mask)
    left = [
        jnp.any(leaf, axis=tuple(i for i in range(leaf.ndim) if i not in own))
        for leaf, own in zip(jax.tree.leaves(mask), axes, strict=True)
    ]
    if _tree.is_traced(left):  # a mask that `jit` closes over
        return
    flags = [flag for each in left for flag in np.ravel(each)]
    named = zip(_layers.named(mask, axes), flags, strict=True)
    gone = [path for (path, layer), some in named if layer.size and not some]
    if gone:
        warnings.warn(
            f"no weight is left of {', '.join(map(repr, gone))}: the network is cut there. Prune "
            "less, or exclude the leaf with `where`.",
            stacklevel=3,
        )
