"""How the methods with a straight-through gradient get scores and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxprune import _layers, masks
from jaxprune._layers import Stacked
from jaxprune._scoring import Scores, Scoring
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern


def scorer(
    scores: Scores | None,
    where: Where | None,
    *,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> Callable[[PyTree], PyTree]:
    """Returns the function from parameters to scores; nothing is differentiated through it.

    Raises:
      TypeError: if one of the arguments is not a function, ``where`` is given beside scores that do
        not take it, or the scores ask for more than the parameters.
    """
    scoring = Scoring(scores, where, allocation=allocation, pattern=pattern, stacked=stacked)
    asked = sorted(scoring.required - {"where", "stacked"})
    if asked:
        raise TypeError(
            f"these scores ask for {asked[0]!r}, but the forward pass only has the parameters. "
            f"Bind it, functools.partial(scores, {asked[0]}=...), or prune with a transform."
        )
    return lambda params: scoring(jax.lax.stop_gradient(params))


def make(
    scores: PyTree,
    sparsity: Any,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> PyTree:
    """The mask, with the same total result inside and outside of `jit`: nothing is raised.

    In the middle of training a layer may be cut for a step; only the end is worth an error.
    """
    rules: Any = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    mask, _ = masks.make_with_info(scores, sparsity, **rules)
    return mask


def check_not_fixed(
    scores: PyTree, pattern: Pattern | None, stacked: Stacked | None, *, name: str
) -> None:
    """Raises if a pattern fixes the sparsity of a leaf, for methods whose target grows.

    Raises:
      ValueError: naming the leaf.
    """
    if pattern is None:
        return
    for path, leaf in _layers.named(scores, _layers.axes_of(stacked, scores)):
        spec = pattern(path, leaf)
        if getattr(spec, "kept", None) is not None:
            raise ValueError(
                f"the pattern fixes the sparsity of {path!r} (N:M), but the target of {name} "
                "grows. For N:M use sr_ste(pattern), dnw(None, pattern=pattern) or "
                "transforms.gmp(None, pattern=pattern)."
            )
