"""What is counted for itself: leaves, the layers stacked in a leaf, the units of a layer's output.

Three numberings meet in a prune. A **leaf** is an array. It holds one or more **layers**, which
allocations and reports speak of. A layer is one **part**, or is cut into its output units, each a
part that loses the same number of weights. The selection counts parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _host, _layers
from jaxprune._selection import limbs
from jaxprune.masks.patterns import PatternSpec


class Layout(NamedTuple):
    """What is known of a prune before any value.

    Attributes:
      pools: the indices of the layers of each pool.
      shared: whether the pools, one layer each, share a total; see `Pools`.
      specs: the pattern of each layer.
      stacked: of each leaf the axes that its layers are stacked along; see `_layers`.
      units: of each layer the axes of its output units where these are counted; see `Pools`.
    """

    pools: tuple[tuple[int, ...], ...]
    shared: bool
    specs: tuple[PatternSpec | None, ...]
    stacked: _layers.Axes
    units: tuple[tuple[int, ...], ...]

    @classmethod
    def one_pool_each(cls, specs: Sequence[PatternSpec | None], stacked: _layers.Axes) -> Layout:
        """Each layer for itself, but those for which an N:M pattern fixes the number."""
        free = [i for i, spec in enumerate(specs) if spec is None or spec.kept is None]
        return cls(tuple((i,) for i in free), False, tuple(specs), stacked, ((),) * len(specs))


class Parts:
    """The parts of all leaves, numbered in their order.

    Attributes:
      layer_sizes: the number of weights of each layer.
      first_layer: the first layer of each leaf.
      leaf_of: the leaf of each layer.
      layer_of: the layer of each part.
      pool_of: the pool that each part is counted in, -1 where none. A unit is a pool of its own.
      asked: of each such pool the one of the layout that says how many entries it loses.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], layout: Layout):
        self._stacked = layout.stacked
        of_leaf = [_layers.number(s, own) for s, own in zip(shapes, layout.stacked, strict=True)]
        ends = np.cumsum(of_leaf)
        self.first_layer = [int(end) - n for end, n in zip(ends, of_leaf, strict=True)]
        self.leaf_of = np.repeat(np.arange(len(shapes)), of_leaf)
        pairs = zip(shapes, layout.stacked, strict=True)
        self._layer_shapes = [_layers.layer_shape(shape, own) for shape, own in pairs]
        self.layer_sizes = [math.prod(self._layer_shapes[i]) for i in self.leaf_of]
        self._units = [layout.units[i] for i in self.first_layer]
        units = [
            math.prod(self._layer_shapes[i][axis] for axis in layout.units[layer])
            for layer, i in enumerate(self.leaf_of)
        ]
        self.layer_of = np.repeat(np.arange(len(units)), units)
        self._first_part = np.cumsum(units) - units
        pool_of = np.full(len(self.layer_of), -1)
        asked: list[int] = []
        for p, members in enumerate(layout.pools):
            for layer in members if not layout.units[members[0]] else members[:1]:
                start = self._first_part[layer]
                own = np.arange(units[layer]) if layout.units[layer] else np.zeros(1, int)
                pool_of[start : start + units[layer]] = len(asked) + own
            asked += [p] * (units[members[0]] if layout.units[members[0]] else 1)
        self.pool_of, self.asked = pool_of, np.asarray(asked, int)

    @property
    def pools(self) -> int:
        """The number of pools, units included; at least 1."""
        return max(len(self.asked), 1)

    def _range(self, leaf: int) -> np.ndarray:
        return np.flatnonzero(self.leaf_of[self.layer_of] == leaf)

    def places(self, leaves: Sequence[int]) -> np.ndarray:
        """The parts of some leaves."""
        return np.concatenate([self._range(i) for i in leaves])

    def layers_at(self, places: np.ndarray) -> list[int]:
        """The layers that these parts are of, each once."""
        return list(dict.fromkeys(self.layer_of[places].tolist()))

    def is_counted(self, leaf: int) -> bool:
        """Whether a leaf is in pools."""
        return bool(np.all(self.pool_of[self._range(leaf)] >= 0))

    def is_cut(self, leaf: int) -> bool:
        """Whether a leaf has parts."""
        return bool(self._stacked[leaf] or self._units[leaf])

    def pool_of_leaf(self, leaf: int) -> int | np.ndarray:
        """The pool of a leaf, or of each of its parts; 0 where it is in none."""
        pools = np.maximum(self.pool_of[self._range(leaf)], 0)
        return pools if self.is_cut(leaf) else int(pools[0])

    def split(self, leaf: int, x: Any) -> Any:
        """Cuts what `_layers.to_front` makes of a leaf into parts, ``[parts, ...]``."""
        units = self._units[leaf]
        if x is None or not units:
            return x
        if not self._stacked[leaf]:
            return _layers.to_front(x, units)
        rows = jax.vmap(lambda layer: _layers.to_front(layer, units))(x)
        return rows.reshape(-1, *rows.shape[2:])

    def join(self, leaf: int, x: Any) -> Any:
        """The reverse of `split`."""
        units, shape = self._units[leaf], self._layer_shapes[leaf]
        if not units:
            return x
        if not self._stacked[leaf]:
            return _layers.from_front(x, shape, units)
        rows = x.reshape(-1, _layers.number(shape, units), *x.shape[1:])
        return jax.vmap(lambda layer: _layers.from_front(layer, shape, units))(rows)

    def split_layer(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Cuts one layer into its units, ``[units, weights]``."""
        rows = _layers.to_front(x, self._units[self.leaf_of[layer]])
        return rows.reshape(len(rows), -1)

    def join_layer(self, layer: int, x: np.ndarray) -> np.ndarray:
        """The reverse of `split_layer`."""
        leaf = self.leaf_of[layer]
        whole = _layers.from_front(x, self._layer_shapes[leaf], self._units[leaf])
        out = _host.empty(whole.shape, whole.dtype)
        out[...] = whole
        return out

    def sum_units(self, counts: jax.Array, places: np.ndarray) -> jax.Array:
        """Adds counts of some parts, ``[parts, limbs]``, up to counts of their layers."""
        segments, number = self._segments(places)
        return counts if segments is None else limbs.sum_segments(counts, segments, number)

    def any_unit(self, flags: jax.Array, places: np.ndarray) -> jax.Array:
        """Which layers have a part with a flag, from the flags of some parts."""
        segments, number = self._segments(places)
        if segments is None:
            return flags
        return jax.ops.segment_max(flags.astype(jnp.uint8), segments, number) > 0

    def _segments(self, places: np.ndarray) -> tuple[np.ndarray | None, int]:
        layers = self.layer_of[places]
        _, segments = np.unique(layers, return_inverse=True)
        number = int(segments.max(initial=-1)) + 1
        return (None if number == len(segments) else segments), number

    def ask_units(self, asked: jax.Array) -> jax.Array:
        """What each pool loses, from what those of the layout do."""
        return asked if len(self.asked) == len(asked) else asked[self.asked]

    def worst_units(self, asked: jax.Array, gone: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of each pool of the layout what a unit loses, and what the sparsest has lost before."""
        pools, first = np.unique(self.asked, return_index=True)
        if len(pools) == len(self.asked):
            return asked, gone
        number = len(pools)
        high = jax.ops.segment_max(gone[:, 0], self.asked, number)
        if gone.shape[1] == 1:
            return asked[first], high[:, None]
        low = jnp.where(gone[:, 0] == high[self.asked], gone[:, 1], jnp.zeros_like(gone[:, 1]))
        low = jax.ops.segment_max(low, self.asked, number)
        return asked[first], jnp.stack([high, low], axis=1)
