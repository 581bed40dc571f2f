"""What was taken as prunable and what not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _eager, _host, _html, _layers, _tree
from jaxprune._layers import Stacked
from jaxprune._mask import check_bool
from jaxprune._tree import PyTree, Where
from jaxprune.metrics import sparsity_per_leaf


class Report(str):
    """A table of leaves: Markdown when printed, a table with a bar a leaf in a notebook."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)  # lines, not a text of "\n": a prompt shows the table

    def _repr_html_(self) -> str:
        header, _, *rows = [
            [cell.strip() for cell in line.strip("|").split(" |")] for line in self.splitlines()
        ]
        bars = [float(row[-1]) if row[-1] else None for row in rows]
        return _html.table(header, rows, left=4, bars=bars)


def report(
    params: PyTree,
    mask: PyTree | None = None,
    *,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Report:
    """Lists every leaf, whether it is prunable and how sparse it is, as a Markdown table.

    What is counted follows from what is passed, and the header says it:

    * with a mask, ``kept``: the weights that it keeps, whatever their values;
    * without one, ``nonzero``: of prunable leaves the values that are not exactly zero (-0.0 is
      zero, NaN is not), so that parameters pruned elsewhere show their sparsity;
    * without one, of abstract parameters (`jax.eval_shape`, or inside `jit`), ``size``: they have
      no values, so no sparsity is shown.

    Args:
      params: any pytree of arrays or of `jax.ShapeDtypeStruct`.
      mask: a mask of these parameters; without one the rule ``where`` is shown at work.
      where: ``where(path, leaf) -> bool``; `default_where` if omitted. Not used with a mask.
      stacked: where leaves hold several layers: rules from paths to axes, see `make`. Each layer
        then has a row of its own.

    Returns:
      The table, a string that notebooks show with a bar of the sparsity: path, shape, dtype,
      prunable or not, the count, and of prunable leaves the sparsity (fraction not counted); their
      total at the end. No mask touches the other leaves: beside one they are kept whole, and
      without one their zeros are not counted.

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
      | bias | 4 | float32 | no | | |
      | kernel | 1x4 | float32 | yes | 3 | 0.2500 |
      | all prunable | | | 1 of 2 leaves | 3 | 0.2500 |
      >>> pruned, mask = jp.prune(params, 0.5)
      >>> print(jp.masks.report(pruned, mask).splitlines()[-1])
      | all prunable | | | 1 of 2 leaves | 2 | 0.5000 |
    """
    column, partial = _column(params, mask, where)
    prunable: list[Any] = []
    _tree.map_partial(lambda m, _: prunable.append(m), partial, params)
    axes = _layers.axes_of(stacked, partial)
    layers = iter(_layers.named(partial, axes))
    numbers = iter(_counts(column, partial, stacked, axes))
    lines = [
        f"| leaf | shape | dtype | prunable | {column} | sparsity |",
        "|---|---|---|---|---:|---:|",
    ]
    own, total, size, taken = iter(axes), 0, 0, 0
    for (path, leaf), part in zip(_tree.named_leaves(params), prunable, strict=True):
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if part is None:
            # Biases that are zero at the start are not pruned, so their zeros are not counted.
            shown = "" if column == "nonzero" else f" {_tree.size(leaf)}"
            lines.append(f"| {path} | {_shape(np.shape(leaf))} | {dtype} | no |{shown} | |")
            continue
        taken += 1
        for _ in range(_layers.number(np.shape(leaf), next(own))):
            name, layer = next(layers)
            number, entries = next(numbers), _tree.size(layer)
            end = f"yes | {_share(column, number, entries)}"
            lines.append(f"| {name} | {_shape(layer.shape)} | {dtype} | {end}")
            total, size = total + number, size + entries
    leaves = f"{taken} of {len(prunable)} leaves"
    lines.append(f"| all prunable | | | {leaves} | {_share(column, total, size)}")
    return Report("\n".join(lines))


def _column(params: PyTree, mask: PyTree | None, where: Where | None) -> tuple[str, PyTree]:
    """What is counted, and the partial tree that it is counted in."""
    if mask is not None:
        check_bool(mask)
        return "kept", _tree.expanded(mask, params)
    partial = _tree.prunable(params, where)
    leaves = jax.tree.leaves(partial)
    if any(_tree.is_traced(x) or isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        return "size", partial
    return "nonzero", partial


def _counts(column: str, partial: PyTree, stacked: Stacked | None, axes: _layers.Axes) -> list[int]:
    if column == "size":
        return [_tree.size(layer) for _, layer in _layers.named(partial, axes)]
    mask = _are_nonzero(partial) if column == "nonzero" else partial
    return [row.kept for row in sparsity_per_leaf(mask, stacked=stacked)]


def _are_nonzero(weights: PyTree) -> PyTree:
    """Which weights are not zero, told by their bits: XLA's CPU backend flushes denormals.

    Under it 1e-40 != 0 is False.
    """

    def one(x: Any) -> Any:
        here = _host.view(x)
        return _eager.Row(x) if here is None else _is_nonzero_here(here)

    return _eager.together(_is_nonzero, jax.tree.map(one, weights))


def _is_nonzero_here(x: np.ndarray) -> np.ndarray:
    words = np.ascontiguousarray(x).view(f"uint{8 * x.itemsize}")
    flags = np.ones(words.shape, bool)
    for zero in _zeros(x.dtype):
        flags &= words != zero
    return flags.reshape(x.shape)


def _is_nonzero(x: jax.Array) -> jax.Array:
    if jnp.finfo(x.dtype).bits < 8:  # float4 has no integer of its width; and no denormals lost
        return x.astype(jnp.float32) != 0
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    flags = jnp.ones(words.shape, bool)
    for zero in _zeros(x.dtype):
        flags = flags & (words != jnp.asarray(zero, words.dtype))
    return flags


def _zeros(dtype: Any) -> np.ndarray:
    """The bits of 0.0 and -0.0, as far as a type has them: in some -0.0 is NaN, one has no zero."""
    zeros = np.array([0.0, -0.0]).astype(dtype)
    return zeros.view(f"uint{8 * zeros.itemsize}")[zeros.astype(np.float64) == 0]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _share(column: str, n: Any, size: int) -> str:
    """The last two cells of a row."""
    return f"{n} | |" if column == "size" else f"{n} | {(size - n) / max(size, 1):.4f} |"
