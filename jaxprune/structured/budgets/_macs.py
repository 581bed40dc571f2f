"""MACs: multiply-accumulates that may be left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprune._tree import PyTree
from jaxprune.metrics import flops
from jaxprune.structured.budgets._budget import Budget, Measured, amount_of, exactly


def macs(amount: float) -> Budget:
    """A budget of multiply-accumulates: those of the jaxpr of the shrunk function.

    They are counted as in `jaxprune.metrics.flops`, for the example inputs of `channel_groups`
    (their batch included), exactly and without any array.

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
      ...     return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]
      >>> params = {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 8)), "c": jnp.ones((8, 4))}
      >>> x = jnp.ones((1, 4))
      >>> groups = jp.structured.channel_groups(apply, params, x)
      >>> scores = [jnp.arange(8.0), jnp.arange(8.0)]
      >>> kept = jp.structured.select(groups, scores, budget=jp.structured.macs(0.5))
      >>> [int(k.sum()) for k in kept], kept.notes
      ([5, 4], ('56 MACs of 128 are left (43.8 %); at most 64 were asked for',))
    """
    amount, is_fraction = amount_of("macs", amount)
    return Budget("MACs", amount, is_fraction, _measure)


def _measure(apply: Callable[..., Any], params: PyTree, inputs: tuple[Any, ...]) -> Measured:
    return exactly(flops(apply, params, *inputs).macs)
