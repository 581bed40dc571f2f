"""What was taken as prunable and what not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._mask import count_true
from jaxprune._tree import PyTree, Where
from jaxprune.metrics import sparsity_per_leaf


def report(params: PyTree, mask: PyTree | None = None, *, where: Where | None = None) -> str:
    """Lists every leaf, whether it is prunable and how sparse it is, as a Markdown table.

    What is counted follows from what is passed, and the header says it:

    * with a mask, ``kept``: the weights that it keeps, whatever their values;
    * without one, ``nonzero``: the values that are not exactly zero (-0.0 is zero, NaN is not), so
      that parameters pruned elsewhere show their sparsity;
    * without one, of abstract parameters (`jax.eval_shape`, or inside `jit`), ``size``: they have
      no values, so no sparsity is shown.

    Args:
      params: any pytree of arrays or of `jax.ShapeDtypeStruct`.
      mask: a mask of these parameters; without one the rule ``where`` is shown at work.
      where: ``where(path, leaf) -> bool``; `default_where` if omitted. Not used with a mask.

    Returns:
      The table: path, shape, dtype, prunable or not, the count, and of prunable leaves the
      sparsity (fraction not counted); their total at the end. No mask touches the other leaves:
      beside one they are kept whole.

    Raises:
      ValueError: if no leaf is prunable, or the mask is of another tree.
      TypeError: if a leaf of the mask is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.array([[1.0, 0.0, 2.0, 3.0]]), "bias": jnp.ones(4)}
      >>> print(jp.masks.report(params))
      | leaf | shape | dtype | prunable | nonzero | sparsity |
      |---|---|---|---|---:|---:|
      | bias | 4 | float32 | no | 4 | |
      | kernel | 1x4 | float32 | yes | 3 | 0.2500 |
      | all prunable | | | 1 of 2 leaves | 3 | 0.2500 |
      >>> pruned, mask = jp.prune(params, 0.5)
      >>> print(jp.masks.report(pruned, mask).splitlines()[-1])
      | all prunable | | | 1 of 2 leaves | 2 | 0.5000 |
    """
    named = _tree.named_leaves(params)
    column, prunable, counts = _count(params, mask, where)
    lines = [
        f"| leaf | shape | dtype | prunable | {column} | sparsity |",
        "|---|---|---|---|---:|---:|",
    ]
    rows = list(zip(named, prunable, counts, strict=True))
    for (path, leaf), taken, number in rows:
        shape = "x".join(map(str, np.shape(leaf))) or "scalar"
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        shown = "" if number is None else number
        end = f"yes | {_share(column, shown, _tree.size(leaf))}" if taken else f"no | {shown} | |"
        lines.append(f"| {path} | {shape} | {dtype} | {end}")
    size = sum(_tree.size(leaf) for (_, leaf), taken, _ in rows if taken)
    total = _share(column, sum(number for _, taken, number in rows if taken and number), size)
    lines.append(f"| all prunable | | | {sum(prunable)} of {len(named)} leaves | {total}")
    return "\n".join(lines)


def _count(
    params: PyTree, mask: PyTree | None, where: Where | None
) -> tuple[str, list[bool], list[int | None]]:
    """The name of the column; whether each leaf is prunable, and its count, if it has one."""
    leaves = jax.tree.leaves(params)
    sizes: list[int | None] = [_tree.size(leaf) for leaf in leaves]
    partial = _tree.prunable(params, where) if mask is None else mask
    prunable: list[bool] = []
    _tree.map_partial(lambda leaf, _: prunable.append(leaf is not None), partial, params)
    if mask is not None:
        kept = (row.kept for row in sparsity_per_leaf(mask))
        each = zip(prunable, sizes, strict=True)
        return "kept", prunable, [next(kept) if taken else size for taken, size in each]
    floating = [x for x in leaves if _tree.is_floating(x)]
    if any(_tree.is_traced(x) or isinstance(x, jax.ShapeDtypeStruct) for x in floating):
        return "size", prunable, sizes
    nonzero = iter(count_true([_is_nonzero(x) for x in floating]))
    return "nonzero", prunable, [next(nonzero) if _tree.is_floating(x) else None for x in leaves]


@jax.jit
def _is_nonzero(leaf: Any) -> jax.Array:
    # By its bits but the sign: XLA's CPU backend flushes denormals, so 1e-40 != 0 is False there.
    unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(leaf, unsigned) << 1 != 0


def _share(column: str, n: Any, size: int) -> str:
    """The last two cells of a row."""
    return f"{n} | |" if column == "size" else f"{n} | {(size - n) / max(size, 1):.4f} |"
