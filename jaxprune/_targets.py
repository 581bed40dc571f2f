"""Sparsities to come, checked against what is pruned already."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxprune import _eager, _tree, masks, metrics
from jaxprune._tree import PyTree


def check_not_sparser(
    mask: PyTree, params: PyTree, targets: Sequence[float | None], *, name: str
) -> None:
    """Raises if the mask is sparser than the first target, or the weights than the last.

    The mask says what is pruned; that must leave something for every target. Zeros in the weights
    may be there by chance, and go first. Leaves of nothing but zeros are not looked at: some layers
    start at zero, and templates of parameters are zero throughout.

    Raises:
      ValueError: with both numbers.
    """
    # Sparsity 0 asks for nothing: zeros that are there may stay.
    if targets[0] is None or targets[-1] == 0 or _tree.is_traced(mask, params):
        return
    pairs = [(m, w) for _, m, (w,) in _tree.beside(mask, params)]
    if any(isinstance(x, jax.ShapeDtypeStruct) for pair in pairs for x in pair):
        return
    total = _tree.size(mask)
    if targets[-1] is not None and masks.count(targets[-1], total) == 0:
        raise ValueError(
            f"{name} never prunes: sparsity {targets[-1]:.6g} of {total} prunable weights is less "
            "than half a weight. Ask for more."
        )
    kept = metrics.counts(mask)[0]
    alive = _eager.together(_alive, [_eager.Row(m, w) for m, w in pairs])
    nonzero = 0
    for (m, _), of_leaf in zip(pairs, alive, strict=True):
        nonzero += metrics.counts({"": of_leaf})[0] or metrics.counts({"": m})[0]
    gone = {"masked": (total - kept, targets[0]), "zero": (total - nonzero, targets[-1])}
    for what, (number, target) in gone.items():
        if target is not None and number > masks.count(target, total):
            raise ValueError(
                f"{name} is to prune to sparsity {target:.6g}, but {number} of the {total} "
                f"prunable weights are {what} already, sparsity {number / total:.6g}. Ask for "
                "more, or start from denser weights."
            )


def _alive(m: jax.Array, w: jax.Array) -> jax.Array:
    return m & (w != 0)
