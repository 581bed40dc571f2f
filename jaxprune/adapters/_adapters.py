"""The tree of adapters: what is trained in place of the weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _layers, _mask, _tree
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree

Kind: TypeAlias = Literal["mask_lora", "scale_lora", "lora"]
Where: TypeAlias = Callable[[str, Any], bool]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """Two small arrays whose product has the shape of a weight.

    Attributes:
      left: ``[*stacked, *rows, rank]``.
      right: ``[*stacked, rank, *columns]``. The weight is ``[*rows, *columns]`` but for its stacked
        axes; the cut between rows and columns is where the factors are smallest.
      stacked: the axes of the weight along which layers are stacked.
    """

    left: jax.Array
    right: jax.Array
    stacked: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})

    def product(self) -> jax.Array:
        """The product, of the weight's shape."""
        layers = tuple(range(len(self.stacked)))
        contracted = ((self.left.ndim - 1,), (len(layers),))
        dims = (contracted, (layers, layers))
        return jnp.moveaxis(jax.lax.dot_general(self.left, self.right, dims), layers, self.stacked)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Change:
    """What is added to a leaf that is trained whole, such as a bias.

    Attributes:
      value: of the leaf's shape; zero at the start.
    """

    value: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapters:
    """What is trained: a tree like the parameters, which any optax optimizer takes.

    Attributes:
      tree: `Factors` for a pruned weight, `Change` for a leaf that is trained whole, `None` for one
        that stays.
      kind: "mask_lora", "scale_lora" or "lora".
      alpha: products of factors are multiplied by ``alpha / rank``; `None` for scale_lora.
    """

    tree: PyTree
    kind: Kind = dataclasses.field(metadata={"static": True})
    alpha: float | None = dataclasses.field(default=None, metadata={"static": True})


def is_adapter(x: Any) -> bool:
    """Whether a node of the tree is one adapter, or stands for none."""
    return _tree.is_absent(x) or isinstance(x, (Factors, Change))


def build(
    params: PyTree,
    mask: PyTree,
    make: Callable[[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], Any], tuple[Any, Any]],
    *,
    rank: int,
    kind: Kind,
    alpha: float | None,
    where: Where | None,
    also: Where | None,
    stacked: Stacked | None,
) -> Adapters:
    """The adapters of a kind.

    Args:
      params: the pruned parameters.
      mask: their mask.
      make: ``make(number, layers, rows, columns, dtype) -> (left, right)`` for the weight with this
        number in the tree, the arrays of the shapes that `Factors` says; ``rows`` and ``columns``
        end and begin with the rank.
      rank: rank of the products. A weight with fewer rows or columns than this has as many.
      kind: name of the kind.
      alpha: scale of the products.
      where: which of the pruned weights have factors; all if omitted.
      also: which other leaves are trained whole; none if omitted.
      stacked: rules from paths to the axes along which layers are stacked.

    Raises:
      ValueError: if the mask is of another tree, the rank below 1, or nothing would be trained.
      TypeError: if the mask is not boolean, or a leaf that is chosen not floating.
    """
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)):
        raise TypeError(f"rank is a number of columns, such as 16; got {rank!r}.")
    if rank < 1:
        raise ValueError(f"rank is at least 1; got {rank}.")
    _mask.check_given(mask)
    _tree.check_matches(mask, params)
    mask = _tree.expanded(mask, params)
    axes = iter(_layers.axes_of(stacked, mask))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=_tree.is_absent)
    kept = jax.tree.leaves(mask, is_leaf=_tree.is_absent)
    made: list[Any] = []
    for number, ((place, leaf), m) in enumerate(zip(leaves, kept, strict=True)):
        path = _tree.path_string(place)
        own = () if _tree.is_absent(m) else next(axes)
        if not _tree.is_absent(m) and (where is None or where(path, leaf)):
            _check_floating(path, leaf)
            made.append(_factors(number, leaf, own, rank, make))
        elif not _tree.is_absent(leaf) and also is not None and also(path, leaf):
            _check_floating(path, leaf)
            if not _tree.is_absent(m):
                raise ValueError(
                    f"`also` selects {path!r}, which is pruned: trained whole its zeros would be "
                    "lost. Let it have factors, or exclude it from both."
                )
            made.append(Change(jnp.zeros_like(leaf, _tree.wide_dtype(leaf.dtype))))
        else:
            made.append(None)
    if all(x is None for x in made):
        raise ValueError("nothing would be trained: `where` selects none of the pruned weights.")
    return Adapters(treedef.unflatten(made), kind, alpha)


def _factors(number: int, leaf: Any, stacked: tuple[int, ...], rank: int, make: Any) -> Factors:
    layers = tuple(leaf.shape[axis] for axis in stacked)
    shape = _layers.layer_shape(leaf.shape, stacked)
    cut = min(range(len(shape) + 1), key=lambda i: math.prod(shape[:i]) + math.prod(shape[i:]))
    rows, columns = shape[:cut], shape[cut:]
    rank = min(rank, math.prod(rows), math.prod(columns))
    left, right = make(
        number, layers, (*rows, rank), (rank, *columns), _tree.wide_dtype(leaf.dtype)
    )
    return Factors(left, right, stacked)


def _check_floating(path: str, leaf: Any) -> None:
    if not _tree.is_floating(leaf):
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        raise TypeError(f"only floating leaves have adapters, but {path!r} is of dtype {dtype}.")
