"""Per output: every output unit loses the same number of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxprune import _count, _tree
from jaxprune._tree import PyTree
from jaxprune.masks.allocations._allocation import (
    Allocation,
    OnCollapse,
    Pools,
    check_on_collapse,
    one_each,
)

Axes = int | Sequence[int]


def per_output(
    *,
    axis: Axes | Callable[[str, Any], Axes] | None = None,
    layout: Literal["flax", "haiku", "equinox"] | None = None,
    on_collapse: OnCollapse = "error",
) -> Allocation:
    """Compares the weights of each output unit among themselves: all units lose the same number.

    Of the n weights that make one output, ``round(sparsity * n)`` go. This is the comparison group
    of Wanda, which the authors found better than whole layers for large language models. Name the
    axis of the outputs (``axis``), or the framework (``layout``):

    * "flax" and "haiku": the last axis (dense ``[in, out]``, convolution ``[..., in, out]``); for
      the ``query``, ``key`` and ``value`` kernels of Flax's attention, ``[in, heads, head_dim]``,
      the last two;
    * "equinox", as PyTorch: the first axis (dense ``[out, in]``, convolution ``[out, in, ...]``).

    Args:
      axis: the axis of the output units, or several that they lie on together, negative from the
        last; or a function ``(path, leaf) -> axis``.
      layout: the framework whose output axis is meant. Exactly one of ``axis`` and ``layout``.
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`. It raises ValueError if a leaf lacks the
      axis or has no other, and beside a pattern of blocks or channels.

    Raises:
      ValueError: if ``on_collapse`` or ``layout`` is unknown, or not exactly one of ``axis`` and
        ``layout`` is given.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"kernel": jnp.array([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 9.0]])}
      >>> mask = jp.masks.make(scores, 0.5, allocation=per_output(layout="flax"))
      >>> mask["kernel"].T.tolist()
      [[False, False, True, True], [True, False, False, True]]

    References:
      Sun, Liu, Bair, Kolter, A Simple and Effective Pruning Approach for Large Language Models,
      ICLR 2024, section 3. Their code removes ``int(sparsity * n)``.
    """
    check_on_collapse(on_collapse)
    if (axis is None) == (layout is None):
        raise ValueError("pass either axis=, that of the output units, or layout=, the framework.")
    if layout not in (None, "flax", "haiku", "equinox"):
        raise ValueError(f"layout is 'flax', 'haiku' or 'equinox'; got {layout!r}.")

    def of_leaf(path: str, leaf: Any) -> tuple[int, ...]:
        if axis is not None:
            own = axis(path, leaf) if callable(axis) else axis
        elif layout == "equinox":
            own = 0
        else:
            attention = leaf.ndim > 2 and _tree.owner(path) in ("query", "key", "value")
            own = (-2, -1) if attention else -1
        axes = tuple(own) if isinstance(own, Sequence) else (own,)
        inside = all(-leaf.ndim <= a < leaf.ndim for a in axes)
        positive = tuple(sorted(a % max(leaf.ndim, 1) for a in axes))
        if not inside or not 0 < len(set(positive)) == len(positive) < leaf.ndim:
            raise ValueError(
                f"per_output() takes the axes {axes} of {path!r}, of shape {tuple(leaf.shape)}, as "
                "those of its output units; name axes that it has, each once, and not all."
            )
        return positive

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # counts follow from shapes
        named = _tree.named_leaves(scores)
        units = tuple(of_leaf(path, leaf) for path, leaf in named)
        number = [
            math.prod(x.shape[a] for a in own) for (_, x), own in zip(named, units, strict=True)
        ]

        def counts(sparsity: Any, sizes: Sequence[int]) -> tuple[_count.Count, ...]:
            pairs = zip(sizes, number, strict=True)
            return tuple(_count.count(sparsity, size // max(n, 1)) for size, n in pairs)

        return scores, Pools(one_each(len(named)), counts, on_collapse, units=units)

    return allocate
