"""The learning rate as data in the optimizer state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import PyTree


def set_learning_rate(opt_state: PyTree, learning_rate: Any) -> PyTree:
    """Returns the optimizer state with another learning rate; nothing else changes.

    With the rate in the state, one compiled step serves every schedule and cycle.

    Position: none; it writes the state of every `optax.inject_hyperparams` inside ``opt_state``,
    whose factory must have an argument named ``learning_rate``.

    Args:
      opt_state: any optimizer state.
      learning_rate: a number or a (possibly traced) scalar; for stacked states an array of the
        shape that the state's learning rate has. It takes the dtype of the one in the state.

    Returns:
      The new state.

    Raises:
      ValueError: if no injected learning rate is found, if it follows a schedule (which would
        overwrite it at the next update), or if the shape does not fit.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
      >>> state = transforms.set_learning_rate(tx.init(jnp.ones(2)), 0.5)
      >>> state.hyperparams["learning_rate"]
      Array(0.5, dtype=float32)
    """
    found: list[str] = []

    def visit(x: Any) -> Any:
        if not _is_injected(x):
            return x
        hyperparams = dict(x.hyperparams)
        if "learning_rate" in hyperparams:
            if "learning_rate" in getattr(x, "hyperparams_states", {}):
                raise ValueError(
                    "this learning rate follows a schedule inside the optimizer, which would "
                    "overwrite the new value. Inject a number: "
                    "optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)."
                )
            hyperparams["learning_rate"] = _like(learning_rate, hyperparams["learning_rate"])
            found.append("learning_rate")
        return x._replace(
            hyperparams=hyperparams,
            inner_state=jax.tree.map(visit, x.inner_state, is_leaf=_is_injected),
        )

    new = jax.tree.map(visit, opt_state, is_leaf=_is_injected)
    if not found:
        raise ValueError(
            f"there is no injected learning rate in this optimizer state "
            f"({type(opt_state).__name__}). Build the optimizer with optax.inject_hyperparams, "
            "e.g. optax.inject_hyperparams(optax.adamw)(learning_rate=0.1)."
        )
    return new


def _is_injected(x: Any) -> bool:
    # Optax has two such states, one of them deprecated; both have these fields.
    return hasattr(x, "hyperparams") and hasattr(x, "inner_state") and hasattr(x, "_replace")


def _like(value: Any, old: Any) -> jax.Array:
    if np.shape(value) not in ((), np.shape(old)):
        raise ValueError(
            f"the learning rate has shape {np.shape(value)}, the one in the state {np.shape(old)}. "
            "Pass a scalar, or one value for each stacked state."
        )
    return jnp.broadcast_to(jnp.asarray(value, dtype=jnp.asarray(old).dtype), np.shape(old))
