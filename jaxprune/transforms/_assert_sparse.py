"""Whether what a mask prunes is zero in parameters."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._count import count
from jaxprune._mask import check_given, count_true
from jaxprune._tree import PyTree
from jaxprune.transforms._dense import not_zero
from jaxprune.transforms._mask_state import get_mask, has_mask
from jaxprune.transforms._moving import MovingMaskState


def assert_sparse(params: PyTree, state_or_mask: Any, *, sparsity: float | None = None) -> None:
    """Raises unless every weight that a mask prunes is exactly zero.

    A transform keeps weights at zero only where its updates arrive as they are: not if something
    behind it in a chain scales or averages them, and not in a copy that the training loop averages
    itself. Call this after the first step, or in a test; before it, `check_position` looks at the
    optimizer.

    Args:
      params: the parameters, or a copy of them, such as an average; of `optax.LookaheadParams` both
        copies are looked at. Not traced.
      state_or_mask: a mask, or the state of an optimizer that holds one.
      sparsity: the fraction that the mask removes at least, as asked of the method. A schedule that
        has not ended shows here: under `optax.MultiSteps`, say, which lets the transform inside see
        only every k-th step.

    Raises:
      ValueError: naming the first leaf with pruned weights that are not zero, and how many; if
        the mask removes less than ``sparsity``; or if there is no mask, or one of another tree.
      TypeError: if ``params`` are traced.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> mask = {"w": jnp.array([[True, False]])}
      >>> jp.assert_sparse({"w": jnp.array([[1.0, 0.0]])}, mask)
      >>> jp.assert_sparse({"w": jnp.array([[1.0, 0.5]])}, mask)
      Traceback (most recent call last):
      ...
      ValueError: 1 of the 1 pruned weights of 'w' are not zero. ...
    """
    if _tree.is_traced(params):
        raise TypeError("assert_sparse looks at values; call it outside of compiled functions.")
    leaves = jax.tree.leaves(state_or_mask)
    is_mask = all(getattr(x, "dtype", None) == np.bool_ for x in leaves)
    is_mask = is_mask and not has_mask(state_or_mask)
    mask = state_or_mask if is_mask else get_mask(state_or_mask)
    check_given(mask)
    if sparsity is not None:
        _check_ended(mask, sparsity, None if is_mask else state_or_mask)
    for path, m, number in not_zero(params, mask):
        if number:
            raise ValueError(
                f"{number} of the {m.size - count_true([m])[0]} pruned weights of {path!r} are not "
                "zero. Put the transform that prunes outermost, behind nothing that changes its "
                "updates; of an average or another copy take jp.apply_mask(copy, mask)."
            )


def _check_ended(mask: PyTree, sparsity: float, opt_state: PyTree | None) -> None:
    size = _tree.size(mask)
    removed = size - sum(count_true(jax.tree.leaves(mask)))
    # Rounding in each leaf, or to whole groups, may leave a little; a schedule leaves more.
    if removed >= count(sparsity, size) - max(len(jax.tree.leaves(mask)), size // 100):
        return
    steps = "" if opt_state is None else _steps_taken(opt_state)
    raise ValueError(
        f"the mask removes {removed} of {size} weights, {removed / size:.4g}, and not "
        f"{sparsity:.4g}.{steps} If training is over, its schedule was made for more steps than "
        "the transform has seen: inside optax.MultiSteps(..., k) it sees every k-th, so divide its "
        "steps by k, or put MultiSteps inside."
    )


def _steps_taken(opt_state: PyTree) -> str:
    def is_moving(x: Any) -> bool:
        return isinstance(x, MovingMaskState)

    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_moving) if is_moving(x)]
    return f" {int(np.max(found[0].step))} steps have been taken." if found else ""
