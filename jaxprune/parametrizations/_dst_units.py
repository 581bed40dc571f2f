"""The thresholds of dynamic sparse training: whose they are, and when they restart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune import _checks, _layers, _tree
from jaxprune.parametrizations import _leaves

Axes: TypeAlias = int | tuple[int, ...]


class Units:
    """Which axes of a leaf number its output units: what `axis` and `layout` mean."""

    def __init__(self, axis: Axes | Callable[[str, Any], Axes] | None, layout: str | None):
        if axis is not None and layout is not None:
            raise ValueError("pass either axis=, the output axis, or layout=, the framework.")
        if layout not in (None, "flax", "haiku", "equinox"):
            raise ValueError(f"layout is 'flax', 'haiku' or 'equinox'; got {layout!r}.")
        if axis is not None and not callable(axis) and not isinstance(axis, (int, tuple)):
            raise TypeError(f"axis is an integer, a tuple of them or a function; got {axis!r}.")
        self._axis, self._layout = axis, layout

    def _of_layer(self, path: str, leaf: Any) -> tuple[int, ...]:
        if self._axis is not None:
            given = self._axis(path, leaf) if callable(self._axis) else self._axis
            return _checked(given, path, leaf)
        if self._layout == "equinox":
            return (0,)
        attention = leaf.ndim > 2 and _tree.owner(path) in ("query", "key", "value")
        return (leaf.ndim - 2, leaf.ndim - 1) if attention else (leaf.ndim - 1,)

    def axes(self, w: jax.Array, leaf: _leaves.Leaf) -> tuple[int, ...]:
        """The axes of the thresholds: of the output units, and those that layers are stacked along.

        A user's ``axis`` counts the axes of a layer.
        """
        own = [i for i in range(w.ndim) if i not in leaf.stacked]
        layer = jax.ShapeDtypeStruct(_layers.layer_shape(w.shape, leaf.stacked), w.dtype)
        units = [own[i] for i in self._of_layer(leaf.path, layer)]
        return tuple(sorted((*units, *leaf.stacked)))

    def over(self, w: jax.Array, leaf: _leaves.Leaf, t: jax.Array) -> jax.Array:
        """How far each weight is above its threshold."""
        axes = self.axes(w, leaf)
        beside = jnp.expand_dims(t, [i for i in range(w.ndim) if i not in axes])
        return jnp.abs(_leaves.widened(w)) - beside

    def are_due(self, w: jax.Array, leaf: _leaves.Leaf, t: jax.Array, fraction: float) -> jax.Array:
        """Which thresholds are of a layer that keeps no more than the given fraction."""
        own = tuple(i for i in range(w.ndim) if i not in leaf.stacked)
        kept = jnp.sum(step(self.over(w, leaf, t)), axis=own, dtype=jnp.uint32)
        size = math.prod(_layers.layer_shape(w.shape, leaf.stacked))
        units = [i for i, axis in enumerate(self.axes(w, leaf)) if axis not in leaf.stacked]
        return jnp.expand_dims(kept <= _limit(fraction, size), units)


def check_fraction_kept(reset_at: Any) -> float:
    """Returns the fraction of a leaf at which thresholds restart, or raises.

    Raises:
      TypeError: if it is no number.
      ValueError: if it lies outside [0, 1).
    """
    reset_at = _checks.check_number("reset_at", reset_at, low=0.0)
    if reset_at >= 1:
        raise ValueError(f"reset_at is {reset_at}, but a fraction kept must lie in [0, 1).")
    return reset_at


def step(x: jax.Array) -> jax.Array:
    """H(x), 1 for x > 0."""
    return ~(x <= 0)  # not `x > 0`: a NaN stays in sight


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
