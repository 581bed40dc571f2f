"""How the methods with a straight-through gradient get scores and masks."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from jaxprune import _tree, masks
from jaxprune import scores as scores_
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.parametrizations._checks import check_function

Scores: TypeAlias = Callable[[PyTree], PyTree]


def scorer(scores: Scores | None, where: Where | None) -> Scores:
    """Returns the score function, with ``where`` put in; nothing is differentiated through it.

    Raises:
      TypeError: if ``scores`` or ``where`` is not a function, or ``where`` is given beside a score
        function that does not take it.
    """
    check_function("scores", scores)
    check_function("where", where)
    chosen = scores_.magnitude if scores is None else scores
    others = list(inspect.signature(chosen).parameters.values())[1:]
    kinds = inspect.Parameter
    variadic = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    asked = [p.name for p in others if p.default is kinds.empty and p.kind not in variadic]
    if asked and asked != ["where"]:
        raise TypeError(
            f"these scores ask for {asked[0]!r}, but the forward pass only has the parameters. "
            f"Bind it, functools.partial(scores, {asked[0]}=...), or prune with a transform."
        )
    if where is not None:
        takes_all = any(p.kind is kinds.VAR_KEYWORD for p in others)
        if not takes_all and "where" not in [p.name for p in others]:
            raise TypeError(
                "these scores do not take `where`, so they say themselves which leaves are "
                "prunable. Leave `where` out, or give the function an argument of that name."
            )
        chosen = functools.partial(chosen, where=where)
    return lambda params: chosen(jax.lax.stop_gradient(params))


def shapes(score: Scores, params: PyTree) -> PyTree:
    """The shapes of the scores, from parameters or their shapes."""
    return jax.eval_shape(score, params)


def check_rules(allocation: Allocation | None, pattern: Pattern | None) -> None:
    """Raises a TypeError unless both are functions or `None`."""
    check_function("allocation", allocation)
    check_function("pattern", pattern)


def make(
    scores: PyTree,
    sparsity: Any,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
) -> PyTree:
    """The mask, with the same total result inside and outside of `jit`: nothing is raised.

    In the middle of training a layer may be cut for a step; only the end is worth an error.
    """
    mask, _ = masks.make_with_info(scores, sparsity, allocation=allocation, pattern=pattern)
    return mask


def check_not_fixed(scores: PyTree, pattern: Pattern | None, *, name: str) -> None:
    """Raises if a pattern fixes the sparsity of a leaf, for methods whose target grows.

    Raises:
      ValueError: naming the leaf.
    """
    if pattern is None:
        return
    for path, leaf in _tree.named_leaves(scores):
        spec = pattern(path, leaf)
        if getattr(spec, "kept", None) is not None:
            raise ValueError(
                f"the pattern fixes the sparsity of {path!r} (N:M), but the target of {name} "
                "grows. For N:M use sr_ste(pattern) or dnw(None, pattern=pattern)."
            )
