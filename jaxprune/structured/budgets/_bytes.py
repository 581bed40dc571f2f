"""Bytes: how large the parameters may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprune._tree import PyTree
from jaxprune.metrics import size_in_bytes
from jaxprune.structured.budgets._budget import Budget, Measured, amount_of, exactly


# Shadows the type in this file, where it is not used.
def bytes(amount: float) -> Budget:
    """A budget of bytes: of all arrays that were grouped, each in its dtype.

    Args:
      amount: what may be left: a float in (0, 1] is a fraction of those of the whole network, an
        integer a number.

    Returns:
      A budget for `select`.

    Raises:
      TypeError: if the amount is no number.
      ValueError: if it leaves nothing, or is no fraction.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((2, 8)), "b": jnp.ones((8, 2))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 2)))
      >>> scores = [jnp.arange(8.0)]
      >>> kept = jp.structured.select(groups, scores, budget=jp.structured.bytes(64))
      >>> kept.notes
      ('64 bytes of 128 are left (50.0 %); at most 64 were asked for',)
    """
    amount, is_fraction = amount_of("bytes", amount)
    return Budget("bytes", amount, is_fraction, _measure)


def _measure(apply: Callable[..., Any], params: PyTree, inputs: tuple[Any, ...]) -> Measured:
    del apply, inputs
    return exactly(size_in_bytes(params).dense)
