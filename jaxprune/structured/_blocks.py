"""Whole blocks of residual networks: how much each does, and networks without some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree


def block_influence(streams: Any) -> jax.Array:
    r"""Scores every block by how much it turns the residual stream.

    $$\mathrm{BI}_i = 1 - \operatorname{mean}_t \frac{x_{i,t} \cdot x_{i+1,t}}
      {\lVert x_{i,t} \rVert \lVert x_{i+1,t} \rVert}$$

    over all tokens t, where $x_i$ goes into block i and $x_{i+1}$ comes out. Works under `jit`;
    over batches take the mean, see `average`.

    Args:
      streams: the residual stream before the first block and after each: a sequence of arrays
        ``[..., features]``, or one of them stacked, ``[blocks + 1, ..., features]``, as a scan over
        layers returns them.

    Returns:
      ``[blocks]``, float32 at least; the lowest does the least. Tokens that are zero on one side
      count as turned by a right angle.

    Raises:
      ValueError: if there are less than two streams, or their shapes differ.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> streams = [jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]])]
      >>> jp.structured.block_influence(streams).tolist()
      [0.0, 1.0]

    References:
      Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You Expect,
      2024, equation 1.
    """
    shapes = {tuple(np.shape(x)) for x in streams}
    if len(streams) < 2 or len(shapes) != 1 or not next(iter(shapes)):
        raise ValueError(
            "streams are two or more arrays [..., features] of one shape: before the first block "
            f"and after each; got {len(streams)} of shapes {sorted(shapes)}."
        )
    x = jnp.asarray(streams) if hasattr(streams, "ndim") else jnp.stack(list(streams))
    x = x.astype(_tree.wide_dtype(x.dtype)).reshape(x.shape[0], -1, x.shape[-1])
    before, after = x[:-1], x[1:]
    dots = jnp.sum(before * after, axis=-1)
    norms = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
    cosines = jnp.where(norms > 0, dots / jnp.where(norms > 0, norms, jnp.ones_like(norms)), 0)
    return 1 - jnp.mean(cosines, axis=1)


def keep_blocks(params: PyTree, blocks: str | Sequence[str], kept: Any, *, axis: int = 0) -> PyTree:
    """Parameters without some blocks of a residual network.

    For a function that takes its depth from its parameters (a `scan`, a loop over a list) they are
    all it needs; a module is built anew with fewer layers. In a residual network what is left
    computes ``x + f(x)`` block by block as before.

    Args:
      params: the parameters.
      blocks: a path whose leaves hold all blocks along one axis (a list there holds them one by
        one); or the paths of all blocks in order. What stays of these moves to the first paths,
        because modules number their layers.
      kept: which blocks stay, bool ``[blocks]``.
      axis: the axis of the blocks where they are stacked.

    Returns:
      A tree like ``params`` with fewer blocks.

    Raises:
      ValueError: if a path is not there, the numbers of blocks differ, or none stays.
      TypeError: if ``kept`` is not bool.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> params = {"layer_0": jnp.zeros(2), "layer_1": jnp.ones(2), "out": jnp.ones(1)}
      >>> jp.structured.keep_blocks(params, ["layer_0", "layer_1"], [False, True])
      {'layer_0': Array([1., 1.], dtype=float32), 'out': Array([1.], dtype=float32)}
      >>> jp.structured.keep_blocks({"layers": jnp.eye(3)}, "layers", [True, False, True])
      {'layers': Array([[1., 0., 0.],
             [0., 0., 1.]], dtype=float32)}
    """
    stays = np.asarray(kept)
    if stays.dtype != bool or stays.ndim != 1:
        raise TypeError(
            f"kept is bool, one a block (True = stays); got {stays.dtype} of shape {stays.shape}."
        )
    if not stays.any():
        raise ValueError("no block is left. Keep at least one.")
    if isinstance(blocks, str):
        found = _at(params, blocks.split("/"))
        if isinstance(found, (list, tuple)):
            _check(blocks, len(found), stays)
            left = [block for block, stay in zip(found, stays, strict=True) if stay]
            return _put(params, blocks.split("/"), type(found)(left))
        for path, leaf in _tree.named_leaves(found):
            size = np.shape(leaf)[axis] if np.ndim(leaf) > axis else 0
            _check(f"{blocks}/{path}".rstrip("/"), size, stays)
        where = np.flatnonzero(stays)
        return _put(
            params, blocks.split("/"), jax.tree.map(lambda x: x.take(where, axis=axis), found)
        )
    paths = [path.split("/") for path in blocks]
    _check("blocks", len(paths), stays)
    whole = [_at(params, path) for path in paths]
    left = [block for block, stay in zip(whole, stays, strict=True) if stay]
    for path, block in zip(paths, left, strict=False):
        params = _put(params, path, block)
    for path in reversed(paths[len(left) :]):
        params = _put(params, path, _GONE)
    return params


_GONE = object()


def _check(path: str, size: int, stays: np.ndarray) -> None:
    if size != len(stays):
        raise ValueError(f"{path!r} holds {size} blocks, but kept is of {len(stays)}.")


def _key(tree: PyTree, part: str) -> Any:
    """The key of a container that a part of a path names."""
    if isinstance(tree, Mapping):
        return next((key for key in tree if str(key) == part), None)
    if isinstance(tree, (list, tuple)) and part.isdecimal() and int(part) < len(tree):
        return int(part)
    return None


def _at(tree: PyTree, path: Sequence[str]) -> PyTree:
    for i, part in enumerate(path):
        key = _key(tree, part)
        if key is None:
            raise ValueError(
                f"there is nothing at {'/'.join(path[: i + 1])!r}; paths go through dicts and "
                "lists."
            )
        tree = tree[key]
    return tree


def _put(tree: PyTree, path: Sequence[str], value: Any) -> PyTree:
    """A copy of a tree with another subtree at a path, or none."""
    if not path:
        return value
    key = _key(tree, path[0])
    new = _put(tree[key], path[1:], value)
    if isinstance(tree, Mapping):
        changed = {k: new if k == key else v for k, v in tree.items()}
        return {k: v for k, v in changed.items() if v is not _GONE}
    changed = [new if i == key else v for i, v in enumerate(tree)]
    return type(tree)(v for v in changed if v is not _GONE)
