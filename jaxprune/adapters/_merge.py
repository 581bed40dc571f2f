"""From weights and adapters to one network."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _mask, _tree
from jaxprune._tree import PyTree
from jaxprune.adapters._adapters import Adapters, Change, Factors, is_adapter


def effective(params: PyTree, adapters: Adapters, mask: PyTree) -> PyTree:
    """The parameters that the forward pass sees while adapters are trained.

    Differentiable with respect to the adapters; works under `jit`, `vmap` and `scan`.

    Args:
      params: the parameters that the adapters were made from.
      adapters: of `jaxprune.adapters.mask_lora`, `scale_lora` or `lora`.
      mask: the mask that they were made with.

    Returns:
      Parameters of the same shapes and dtypes. For `lora` they are dense.

    Raises:
      ValueError: if adapters or mask are of another tree.
    """
    return _combined(params, adapters, mask, cut=adapters.kind != "lora")


def merge(params: PyTree, adapters: Adapters, mask: PyTree) -> PyTree:
    """The final parameters: adapters built in, every pruned weight exactly zero.

    Computed in float32 at least and rounded once to the dtype of each weight. A weight that is kept
    stays kept, also where its value is zero: the mask decides, not the value.

    Args:
      params: the parameters that the adapters were made from.
      adapters: the trained adapters.
      mask: the mask that they were made with.

    Returns:
      Parameters of the same shapes and dtypes.

    Raises:
      ValueError: if adapters or mask are of another tree; outside of `jit` also if an adapter is
        not finite.

    Example:
      See `jaxprune.adapters.mask_lora`.
    """
    _tree.check_finite(adapters, what="adapters")
    return _merged(params, adapters, mask)


@jax.jit
def _merged(params: PyTree, adapters: Adapters, mask: PyTree) -> PyTree:
    return _combined(params, adapters, mask, cut=True)


def _combined(params: PyTree, adapters: Adapters, mask: PyTree, *, cut: bool) -> PyTree:
    if not isinstance(adapters, Adapters):
        raise TypeError(
            "adapters are made by jaxprune.adapters.mask_lora, scale_lora or lora; got "
            f"{type(adapters).__name__}. The order is (params, adapters, mask)."
        )
    _mask.check_bool(mask)
    _tree.check_matches(mask, params)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=_tree.is_absent)
    own, other = jax.tree.flatten(adapters.tree, is_leaf=is_adapter)
    if other != treedef:
        raise ValueError(
            "the adapters are of another tree than the parameters. Make them from these very "
            "parameters."
        )
    kept = jax.tree.leaves(_tree.expanded(mask, params), is_leaf=_tree.is_absent)
    one = partial(_leaf, kind=adapters.kind, alpha=adapters.alpha, cut=cut)
    return treedef.unflatten(
        one(_tree.path_string(place), w, adapter, m)
        for (place, w), adapter, m in zip(leaves, own, kept, strict=True)
    )


def _leaf(
    path: str, w: Any, adapter: Any, m: Any, *, kind: str, alpha: float | None, cut: bool
) -> Any:
    if _tree.is_absent(adapter):
        return w if _tree.is_absent(w) or _tree.is_absent(m) else jnp.where(m, w, jnp.zeros_like(w))
    wide = _tree.wide_dtype(w.dtype)
    if isinstance(adapter, Change):
        _check_shape(path, w, adapter.value)
        return (w.astype(wide) + adapter.value.astype(wide)).astype(w.dtype)
    assert isinstance(adapter, Factors)
    if _tree.is_absent(m):
        raise ValueError(f"{path!r} has an adapter and no mask. Pass the mask they were made with.")
    product = adapter.product().astype(wide)
    _check_shape(path, w, product)
    zero = jnp.zeros((), wide)
    old = jnp.where(m, w.astype(wide), zero)
    if kind == "scale_lora":
        new = old * product
    else:
        assert alpha is not None
        rank = adapter.left.shape[-1]
        new = old + jnp.asarray(alpha / rank, wide) * product
    # A select, because a product with zero would keep NaN and the sign.
    return (jnp.where(m, new, zero) if cut else new).astype(w.dtype)


def _check_shape(path: str, w: Any, found: Any) -> None:
    if w.shape != found.shape:
        raise ValueError(
            f"the adapter of {path!r} is for shape {found.shape}, the parameter has {w.shape}. "
            "Make them from these very parameters."
        )
