"""What users' functions must return, checked while they are traced: before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree

_LOSS = "loss_fn(params, model_state, batch, key) returns (loss, (model_state, metrics))"
_EVALUATION = "eval_fn(params, model_state, batch) returns {name: (sum, count)}"


def split_loss(returned: Any, model_state: PyTree) -> tuple[Any, PyTree, dict[str, Any]]:
    """Takes what a loss function returned apart.

    Args:
      returned: that.
      model_state: what the function was given; what it returns must be like it, or the next step
        would compile anew and a saved run could not be resumed.

    Returns:
      Loss, model state, metrics.

    Raises:
      TypeError: with the contract and the repair.
    """
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise TypeError(f"{_LOSS}; got {_shown(returned)}. Return (loss, (model_state, {{}})).")
    loss, rest = returned
    if not _is_scalar(loss) or not _tree.is_floating(jnp.asarray(loss)):
        raise TypeError(
            f"{_LOSS}, the loss a floating scalar, the mean over the batch; got {_shown(loss)}."
        )
    if not isinstance(rest, (tuple, list)) or len(rest) != 2:
        raise TypeError(
            f"{_LOSS}; behind the loss got {_shown(rest)}. Return (loss, (model_state, {{}}))."
        )
    after, metrics = rest
    if not isinstance(metrics, dict):
        raise TypeError(f"{_LOSS}, metrics a dict of scalars; got {type(metrics).__name__}.")
    for name, value in metrics.items():
        if not isinstance(name, str) or not _is_scalar(value):
            raise TypeError(
                f"{_LOSS}, metrics a dict from names to scalars; got {name!r}: {_shown(value)}."
            )
    check_alike(model_state, after, what="model state", source="loss_fn")
    return loss, after, metrics


def check_alike(before: PyTree, after: PyTree, *, what: str, source: str) -> None:
    """Raises if a function returned a tree of another structure, shape or dtype than it was given.

    Raises:
      TypeError: naming the first path that differs.
    """
    ours, theirs = (
        {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (before, after)
    )
    repair = f"Return the {what} as it came in, with other values."
    for path in [*ours, *(path for path in theirs if path not in ours)]:
        if path not in theirs or path not in ours:
            has = "lacks" if path in ours else "adds"
            raise TypeError(f"the {what} that {source} returns {has} {what}{path}. {repair}")
        one, other = (_kind(tree[path]) for tree in (ours, theirs))
        if one != other:
            raise TypeError(
                f"{source} was given {what}{path} as {_spelled(one)} and returns it as "
                f"{_spelled(other)}. {repair}"
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise TypeError(
            f"{source} was given the {what} as {jax.tree.structure(before)} and returns "
            f"{jax.tree.structure(after)}. {repair}"
        )


def check_evaluation(returned: Any) -> None:
    """Raises unless an evaluation function returned sums and counts.

    Raises:
      TypeError: with the contract and the repair.
    """
    if not isinstance(returned, dict):
        raise TypeError(f"{_EVALUATION}; got {_shown(returned)}.")
    for name, pair in returned.items():
        if not isinstance(name, str):
            raise TypeError(f"{_EVALUATION}; got the name {name!r}.")
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(_is_scalar, pair)):
            raise TypeError(
                f"{_EVALUATION}, both scalars over the batch, not a mean; got {name!r}: "
                f"{_shown(pair)}. Return (jnp.sum(weight * value), jnp.sum(weight)) with weight = "
                'batch["weight"].'
            )


def check_padding(pairs: dict[str, Any]) -> None:
    """Raises if examples of weight 0 were counted.

    Args:
      pairs: what an evaluation function returned of a batch in which every weight is 0.

    Raises:
      ValueError: naming the metric.
    """
    for name, pair in pairs.items():
        total, count = (float(x) for x in pair)
        if count != 0 or not (total == 0 or np.isnan(total)):
            raise ValueError(
                f"eval_fn counts examples of weight 0: of a batch of nothing but padding {name!r} "
                f'is ({total:g}, {count:g}). Weight every example by batch["weight"], in the sum '
                "and in the count."
            )


def check_order(pairs: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises if a pair looks like (count, sum): its sum ignores the parameters, its count does not.

    Args:
      pairs: sums and counts of a batch.
      other: of the same batch, with other parameters.

    Raises:
      ValueError: naming the metric.
    """
    for name, (total, count) in pairs.items():
        if float(total) == float(other[name][0]) and float(count) != float(other[name][1]):
            raise ValueError(
                f"{name!r} of eval_fn looks like (count, sum): the first number does not change "
                "with the parameters, the second does. Return (sum, count)."
            )


def check_key(key: Any) -> None:
    """Raises unless an argument is one JAX random key.

    Raises:
      TypeError: with the repair.
    """
    dtype, shape = getattr(key, "dtype", None), np.shape(key)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (dtype == np.uint32 and len(shape) == 1):
        raise TypeError(f"key is one JAX random key, such as jax.random.key(0); got {_shown(key)}.")


def check_calls(name: str, function: Any, arguments: Sequence[str]) -> None:
    """Raises unless an optional argument is a function that takes so many positional arguments.

    Raises:
      TypeError: saying how it is called.
    """
    if function is None:
        return
    called = f"{name}({', '.join(arguments)})"
    if not callable(function):
        raise TypeError(f"{name} is a function, called as {called}; got {_shown(function)}.")
    if not takes(function, len(arguments)):
        raise TypeError(f"{name} is called as {called}, but {_named(function)} does not take that.")


def takes(function: Callable[..., Any], number: int) -> bool:
    """Whether a function can be called with so many positional arguments, as far as can be told."""
    try:
        inspect.signature(function).bind(*range(number))
    except TypeError:
        return False
    except ValueError:  # no signature, as some builtins
        return True
    return True


def _is_scalar(x: Any) -> bool:
    return isinstance(x, (int, float, np.generic, np.ndarray, jax.Array)) and np.shape(x) == ()


def _kind(x: Any) -> tuple[Any, tuple[int, ...]]:
    return getattr(x, "dtype", np.asarray(x).dtype if np.isscalar(x) else type(x)), np.shape(x)


def _spelled(kind: tuple[Any, tuple[int, ...]]) -> str:
    dtype, shape = kind
    return f"{getattr(dtype, 'name', dtype)}[{','.join(map(str, shape))}]"


def _named(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _shown(x: Any) -> str:
    """A value as errors name it: arrays by dtype and shape."""
    if isinstance(x, (jax.Array, np.ndarray)):
        return f"an array {_spelled(_kind(x))}"
    if isinstance(x, (tuple, list)):
        inside = ", ".join(_shown(y) for y in x[:4]) + (", ..." if len(x) > 4 else "")
        return f"({inside})" if isinstance(x, tuple) else f"[{inside}]"
    return f"{x!r:.80} of type {type(x).__name__}"
