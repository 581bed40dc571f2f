"""Calling a score function inside an update, with what it asks for by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from jaxprune import _tree
from jaxprune import scores as scores_
from jaxprune._tree import PyTree, Where

Scores: TypeAlias = Callable[..., PyTree]


class Scoring:
    """A score function, ready to be called in an update.

    The function receives the parameters first and then, by name, what its signature asks for:
    ``grads`` (the gradients given to ``update``), ``where``, and any extra argument of ``update``
    (``input_norms`` of `jaxprune.scores.wanda`, say). So the scores of `jaxprune.scores` whose
    first argument is ``params`` can be passed as they are.
    """

    def __init__(
        self,
        scores: Scores | None,
        where: Where | None,
        *,
        allocation: Any = None,
        pattern: Any = None,
    ):
        if scores is not None and not callable(scores):
            raise TypeError(
                f"scores is a function such as jp.scores.magnitude, or one of (params, grads); got "
                f"{type(scores).__name__}: every mask needs new scores."
            )
        for name, rule in (("where", where), ("allocation", allocation), ("pattern", pattern)):
            if rule is not None and not callable(rule):
                raise TypeError(
                    f"{name} is a function, such as those of jp.masks; got {rule!r} of type "
                    f"{type(rule).__name__}."
                )
        self.function = scores_.magnitude if scores is None else scores
        self.where = where
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        kinds = inspect.Parameter
        self.takes_all = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
        # What functools.partial has bound stays bound.
        bound = self.function.keywords if isinstance(self.function, functools.partial) else {}
        self.bound = set(bound)
        self.names = {p.name for p in named} - self.bound
        if where is not None and not self.takes_all and "where" not in self.names:
            raise TypeError(
                f"{getattr(self.function, '__name__', self.function)!r} takes no argument `where`, "
                "so it decides by itself what is prunable. Leave out where=, or let the scores "
                "take it."
            )
        self.required = {p.name for p in named if p.default is kinds.empty}

    def __call__(self, params: PyTree, grads: PyTree, extra_args: dict[str, Any]) -> PyTree:
        """The scores.

        Raises:
          ValueError: if the function asks for an argument that ``update`` did not get.
        """
        given: dict[str, Any] = {"grads": grads, **extra_args}
        if self.where is not None:
            given["where"] = self.where
        missing = sorted(self.required - given.keys())
        if missing:
            raise ValueError(
                f"the scores ask for {missing[0]!r}, which update did not get. Call "
                f"tx.update(grads, opt_state, params, {missing[0]}=...)."
            )
        given = {
            name: value
            for name, value in given.items()
            if name in self.names or (self.takes_all and name not in self.bound)
        }
        return self.function(params, **given)

    def shapes(self, params: PyTree) -> PyTree:
        """The shapes of the scores, as far as they can be known from the parameters."""
        if self.required - {"grads", "where"}:
            like = _tree.prunable(params, self.where)
        else:
            like = jax.eval_shape(lambda p: self(p, p, {}), params)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)


def check_leaves(shapes: PyTree, mask: PyTree, *, name: str) -> None:
    """Raises if scores and mask disagree on what is prunable.

    Raises:
      ValueError: naming the first leaf that only one of them has.
    """
    ours = {path for path, _ in _tree.named_leaves(shapes)}
    theirs = {path for path, _ in _tree.named_leaves(mask)}
    if ours != theirs:
        raise ValueError(
            f"the scores and the mask of {name} disagree on what is prunable, first at "
            f"{min(ours ^ theirs)!r}. Pass the same where= to {name} and to the scores."
        )
