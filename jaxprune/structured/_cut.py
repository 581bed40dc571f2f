"""Cutting removed channels out of trees: parameters, optimizer states, gradients, averages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune import _eager, _host, _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured._masks import kept_of, kept_positions


def cut(tree: PyTree, groups: ChannelGroups, masks: PyTree) -> PyTree:
    """Takes the channels that stay out of every array of a tree that belongs to a parameter.

    Parameters, gradients, moving averages, the states of optimizers, a whole `TrainState`: a leaf
    belongs to the parameter whose path its own path ends with (the parameter's first part may be
    missing, as when only ``variables["params"]`` is optimized). Scalars and leaves of no parameter
    stay.

    Args:
      tree: any pytree.
      groups: from `channel_groups`.
      masks: a tree like the parameters, see `jaxprune.structured.masks`.

    Returns:
      A tree of the same structure with smaller arrays.

    Raises:
      ValueError: if the masks split a channel or are of other parameters; if a leaf belongs to a
        parameter but has another shape (Adafactor's factored statistics: initialise the optimizer
        anew), or could belong to several.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 3)), "b": jnp.ones((3, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> masks = jp.structured.masks(groups, [jnp.array([True, False, True])])
      >>> state = jp.structured.cut(optax.adam(1e-3).init(params), groups, masks)
      >>> jax.tree.map(jnp.shape, state[0].mu)
      {'a': (1, 2), 'b': (2, 1)}
    """
    stays = kept_positions(groups, kept_of(groups, masks))
    by_end = _ends(groups)

    def leaf(key_path: tuple[Any, ...], x: Any) -> Any:
        if not np.shape(x):
            return x
        path = _tree.path_string(key_path)
        found = _owner(path, by_end)
        if not found:
            return x
        if len(found) > 1:
            fitting = [owner for owner in found if groups.shapes[owner] == tuple(np.shape(x))]
            raise ValueError(f"{path!r} could belong to any of {fitting or found}.")
        (owner,) = found
        if tuple(np.shape(x)) != groups.shapes[owner]:
            if not any((owner, axis) in stays for axis in range(len(groups.shapes[owner]))):
                return x
            raise ValueError(
                f"{path!r} has shape {np.shape(x)}, but its parameter {owner!r} has "
                f"{groups.shapes[owner]}: it is not known what to cut. For an optimizer's state, "
                "initialise it anew with the small parameters."
            )
        return take(x, owner, stays)

    return taken(jax.tree_util.tree_map_with_path(leaf, tree))


def take(x: Any, path: str, stays: dict[tuple[str, int], np.ndarray]) -> Any:
    """What stays of an array of a parameter's shape, as an array or as a row of `taken`."""
    alive = [stays.get((path, axis)) for axis in range(np.ndim(x))]
    left = tuple(None if a is None or a.all() else np.flatnonzero(a) for a in alive)
    if all(positions is None for positions in left):
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        shape = [n if p is None else len(p) for n, p in zip(x.shape, left, strict=True)]
        return jax.ShapeDtypeStruct(tuple(shape), x.dtype)
    here = _host.view(x)
    if here is None:
        return _eager.Row(x, left)
    small = _take(here, left)
    # NumPy's arrays stay NumPy's.
    return (
        small
        if isinstance(x, np.ndarray)
        else jax.device_put(small, x.sharding if x.committed else None)
    )


def taken(tree: PyTree) -> PyTree:
    """A tree of what `take` returned: rows are taken in one program for all of them."""
    return _eager.together(_take, tree)


def _take(x: Any, left: tuple[np.ndarray | None, ...]) -> Any:
    for axis, positions in enumerate(left):
        if positions is not None:
            x = x.take(positions, axis=axis)
    return x


def widths(groups: ChannelGroups, masks: PyTree) -> dict[str, int]:
    """How many channels stay of every parameter that makes some, by path.

    For models whose widths can be configured: build the module with these and give it
    ``cut(params, groups, masks)``. It equals the masked network where the module itself does not
    divide by a width: a `LayerNorm` over fewer features takes another mean.

    Args:
      groups: from `channel_groups`.
      masks: a tree like the parameters, see `jaxprune.structured.masks`.

    Returns:
      ``{path of a kernel: number of channels that it makes}``; of one that makes them on several
      axes (heads and their features) ``{"path:axis": number}``.

    Raises:
      ValueError: if the masks split a channel or are of other parameters.
    """
    stays = kept_positions(groups, kept_of(groups, masks))
    made = {(m.path, m.axis) for group in groups for m in group.role("out")}
    axes = Counter(path for path, _ in made)
    return {
        path if axes[path] == 1 else f"{path}:{axis}": int(stays[path, axis].sum())
        for path, axis in sorted(made)
    }


def _ends(groups: ChannelGroups) -> Callable[[int, tuple[str, ...]], list[str]]:
    tables: dict[int, dict[tuple[str, ...], list[str]]] = {0: {}, 1: {}}
    for path in groups.shapes:
        parts = tuple(path.split("/"))
        tables[0].setdefault(parts, []).append(path)
        if len(parts) > 2:
            tables[1].setdefault(parts[1:], []).append(path)
    return lambda missing, parts: tables[missing].get(parts, [])


def _owner(path: str, by_end: Callable[[int, tuple[str, ...]], list[str]]) -> list[str]:
    parts = tuple(path.split("/"))
    if alone := by_end(0, ("",)):  # the parameters are one bare array
        return alone
    for missing in (0, 1):
        for start in range(len(parts)):
            found = by_end(missing, parts[start:])
            if found:
                return found
    return []
