"""What was taken as prunable and what not."""

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.masks._make import dense
from jaxprune.metrics import sparsity_per_leaf


def report(params: PyTree, mask: PyTree | None = None, *, where: Where | None = None) -> str:
    """Lists every leaf, whether it is prunable and how sparse it is, as a Markdown table.

    Args:
      params: any pytree of arrays.
      mask: a mask of these parameters; without one the rule ``where`` is shown at work.
      where: ``where(path, leaf) -> bool``; `default_where` if omitted. Not used with a mask.

    Returns:
      The table: path, shape, dtype, prunable or not, kept weights, sparsity; a total at the end.

    Raises:
      ValueError: if no leaf is prunable, or the mask is of another tree.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> print(jp.masks.report({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}))
      | leaf | shape | dtype | prunable | kept | sparsity |
      |---|---|---|---|---:|---:|
      | bias | 3 | float32 | no | 3 | |
      | kernel | 2x3 | float32 | yes | 6 | 0.0000 |
      | all prunable | | | 1 of 2 leaves | 6 | 0.0000 |
    """
    mask = dense(params, where=where) if mask is None else mask
    _tree.check_matches(mask, params)
    rows = {row.path: row for row in sparsity_per_leaf(mask)}
    lines = ["| leaf | shape | dtype | prunable | kept | sparsity |", "|---|---|---|---|---:|---:|"]
    named = _tree.named_leaves(params)
    for path, leaf in named:
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        if path in rows:
            row = rows[path]
            end = f"yes | {row.kept} | {row.sparsity:.4f} |"
        else:
            end = f"no | {_tree.size(leaf)} | |"
        lines.append(f"| {path} | {shape} | {leaf.dtype} | {end}")
    kept, size = sum(r.kept for r in rows.values()), sum(r.size for r in rows.values())
    lines.append(
        f"| all prunable | | | {len(rows)} of {len(named)} leaves | {kept} "
        f"| {(size - kept) / max(size, 1):.4f} |"
    )
    return "\n".join(lines)
