"""Extra arguments of ``update``, for optimizers that take some, all or none."""

from __future__ import annotations

import inspect
from typing import Any

import optax


def with_extra_args(inner: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose ``update`` takes any extra arguments, and drops those it has no use for.

    `optax.with_extra_args_support` tells by the type alone: it hands on what an ``update`` that
    names its extra arguments (`optax.contrib.sam`) does not take, and drops what one of another
    type (`optax.MultiSteps`) does.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
    """
    update = inner.update
    parameters = inspect.signature(update).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return optax.GradientTransformationExtraArgs(inner.init, update)
    named = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}

    def update_named(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        taken = {k: v for k, v in extra_args.items() if k in named}
        return update(updates, state, params, **taken)

    return optax.GradientTransformationExtraArgs(inner.init, update_named)
