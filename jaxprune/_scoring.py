"""Calling a score function with what it asks for by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from jaxprune import _tree
from jaxprune import scores as scores_
from jaxprune._checks import check_function
from jaxprune._tree import PyTree, Where

Scores: TypeAlias = Callable[..., PyTree]


class Scoring:
    """A score function, ready to be called in training.

    The function receives the parameters first and then, by name, what its signature asks for: in a
    transform ``grads`` (the gradients given to ``update``) and any extra argument of ``update``
    (``input_norms`` of `jaxprune.scores.wanda`, say), ``where`` and ``stacked``. So the scores of
    `jaxprune.scores` whose first argument is ``params`` can be passed as they are.

    Attributes:
      required: names of the arguments without which the function cannot be called.
    """

    def __init__(
        self,
        scores: Scores | None,
        where: Where | None,
        *,
        default_where: Where | None = None,
        allocation: Any = None,
        pattern: Any = None,
        stacked: Any = None,
    ):
        """Makes one; magnitude if ``scores`` is omitted.

        Raises:
          TypeError: if one of the arguments is not a function, or ``where`` is given beside scores
            that do not take it and need nothing but the parameters and their gradients. Where more
            is needed, ``where`` says at ``init`` what will be scored.
        """
        if scores is not None and not callable(scores):
            raise TypeError(
                f"scores must be a function or None, such as jp.scores.magnitude, but it is of "
                f"type {type(scores).__name__}: every mask needs new scores."
            )
        self._stacked = stacked
        for name, rule in (("where", where), ("allocation", allocation), ("pattern", pattern)):
            check_function(name, rule)
        self._function = scores_.magnitude if scores is None else scores
        self._where = default_where if where is None else where
        parameters = list(inspect.signature(self._function).parameters.values())[1:]
        kinds = inspect.Parameter
        takes_all = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
        # What functools.partial has bound stays bound.
        function: Any = self._function
        bound = set(function.keywords if isinstance(function, functools.partial) else ())
        names = {p.name for p in named} - bound
        self._takes: Callable[[str], bool] = lambda name: (
            name in names or (takes_all and name not in bound)
        )
        self.required = {p.name for p in named if p.default is kinds.empty}
        if where is not None and not self._takes("where") and not self.required - {"grads"}:
            raise TypeError(
                f"{getattr(self._function, '__name__', self._function)!r} takes no argument "
                "`where`, so it decides by itself what is prunable. Leave out where=, or let the "
                "scores take it."
            )

    def __call__(self, params: PyTree, **given: Any) -> PyTree:
        """The scores.

        Raises:
          ValueError: if the function asks for an argument that is not given.
        """
        if self._where is not None:
            given["where"] = self._where
        elif "where" in self.required:
            given["where"] = _tree.default_where
        if self._stacked is not None:
            given["stacked"] = self._stacked
        missing = sorted(self.required - given.keys())
        if missing:
            raise ValueError(
                f"the scores ask for {missing[0]!r}, which update did not get. Call "
                f"tx.update(grads, opt_state, params, {missing[0]}=...)."
            )
        return self._function(params, **{k: v for k, v in given.items() if self._takes(k)})

    def shapes(self, params: PyTree) -> PyTree:
        """The shapes of the scores, as far as they can be known from the parameters."""
        if self.required - {"grads", "where", "stacked"}:
            like = _tree.prunable(params, self._where)
        else:
            like = jax.eval_shape(lambda p: self(p, grads=p), params)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)


def every_floating(path: str, leaf: Any) -> bool:
    """A ``where`` for all floating leaves, biases and normalizations too."""
    del path
    return _tree.is_floating(leaf)


def check_leaves(shapes: PyTree, mask: PyTree, *, name: str) -> None:
    """Raises if scores and mask disagree on what is prunable.

    Raises:
      ValueError: naming the first leaf that only one of them has.
    """
    if (first := _tree.first_difference(shapes, mask)) is not None:
        raise ValueError(
            f"the scores and the mask of {name} disagree on what is prunable, first at {first!r}. "
            f"Pass the same where= to {name} and to the scores."
        )
