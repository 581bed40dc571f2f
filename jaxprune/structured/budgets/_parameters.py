"""Parameters: how many weights may be left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured.budgets._budget import Budget, Measured, amount_of, exactly


def parameters(amount: float, *, where: Callable[[str, Any], bool] | None = None) -> Budget:
    """A budget of parameters.

    Args:
      amount: what may be left: a float in (0, 1] is a fraction of those of the whole network, an
        integer a number.
      where: ``where(path, leaf) -> bool``, which leaves count; if omitted all that were grouped do,
        statistics and other state beside the weights included.

    Returns:
      A budget for `select`.

    Raises:
      TypeError: if the amount is no number.
      ValueError: if it leaves nothing, or is no fraction.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((2, 8)), "b": jnp.ones((8, 3))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 2)))
      >>> kept = jp.structured.select(groups, [jnp.arange(8.0)], budget=parameters(0.4))
      >>> kept.notes
      ('15 parameters of 40 are left (37.5 %); at most 16 were asked for',)
    """
    amount, is_fraction = amount_of("parameters", amount)

    def measure(apply: Callable[..., Any], params: PyTree, inputs: tuple[Any, ...]) -> Measured:
        del apply, inputs
        named = _tree.named_leaves(params)
        return exactly(sum(_tree.size(x) for path, x in named if where is None or where(path, x)))

    return Budget("parameters", amount, is_fraction, measure)
