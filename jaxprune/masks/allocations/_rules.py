"""One number a leaf: from a number for all, from rules on paths, or from a tree."""

from __future__ import annotations

import difflib
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxprune import _tree
from jaxprune._tree import PyTree


def per_leaf_numbers(
    spec: Any, tree: PyTree, *, what: str, check: Callable[[Any, str], Any] | None = None
) -> list[Any]:
    """Resolves a specification of fractions for the leaves of a tree.

    Args:
      spec: `None`; a number for every leaf; rules, as a mapping or a sequence of pairs from a path
        (or a regular expression that matches a whole path) to a number, of which the first that
        matches counts; or a tree like ``tree`` of numbers, `None` where nothing is said.
      tree: the scores.
      what: the name of the argument, for errors.
      check: ``check(number, what)`` returns a number, or raises; fractions if omitted.

    Returns:
      One number a leaf of ``tree``, `None` where nothing is said of it.

    Raises:
      ValueError: if a number lies outside [0, 1], a rule matches no leaf, or a tree differs.
      TypeError: if ``spec`` is of another kind.
    """
    check = _checked if check is None else check
    paths = [path for path, _ in _tree.named_leaves(tree)]
    if spec is None:
        return [None] * len(paths)
    if _is_number(spec):
        return [check(spec, what)] * len(paths)
    rules = _as_rules(spec)
    if rules is None:
        return _from_tree(spec, paths, what, check)
    found: list[Any] = [None] * len(paths)
    for pattern, value in reversed(rules):  # the first that matches writes last
        hits = matches(pattern, paths, what)
        if not hits:
            raise ValueError(_no_leaf(pattern, paths, what))
        for i in hits:
            found[i] = check(value, what)
    return found


def _is_number(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def _checked(value: Any, what: str) -> float:
    if not _is_number(value):
        raise TypeError(f"{what} holds fractions removed in [0, 1]; got {value!r}.")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{what} holds fractions removed in [0, 1]; got {value}.")
    return float(value)


def check_number_kept(value: Any, what: str) -> int:
    """Returns a number of entries, or raises.

    Raises:
      TypeError: if it is no integer.
      ValueError: if it is negative.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{what} holds numbers of weights, integers; got {value!r}.")
    if value < 0:
        raise ValueError(f"{what} holds numbers of weights, at least 0; got {value}.")
    return int(value)


def _as_rules(spec: Any) -> list[tuple[str, Any]] | None:
    if isinstance(spec, Mapping):
        flat = all(isinstance(k, str) and _is_number(v) for k, v in spec.items())
        return list(spec.items()) if flat and spec else None
    pairs = isinstance(spec, Sequence) and not isinstance(spec, str) and len(spec) > 0
    if pairs and all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in spec):
        return list(spec)
    return None


def matches(pattern: str, paths: Sequence[str], what: str) -> list[int]:
    """Which paths a rule names: the one that it is, or those that it matches whole.

    Raises:
      ValueError: if it is neither a path nor a regular expression; ``what`` says whose it is.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        if hits := [i for i, path in enumerate(paths) if pattern in (path, leaf_path(path))]:
            return hits
        raise ValueError(
            f"{what} has the rule {pattern!r}, which is neither the path of a leaf nor a regular "
            f"expression ({error})."
        ) from None
    return [
        i
        for i, path in enumerate(paths)
        if pattern in (path, leaf_path(path))
        or any(map(expression.fullmatch, (path, leaf_path(path))))
    ]


def leaf_path(path: str) -> str:
    """The path of the leaf in which a layer is stacked; that of another leaf as it is."""
    return re.sub(r"\[\d+(,\d+)*\]$", "", path)


def _no_leaf(pattern: str, paths: list[str], what: str) -> str:
    near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
    return (
        f"{what} has the rule {pattern!r}, which matches no prunable leaf. Rules match whole "
        f"paths, such as {', '.join(map(repr, near))}."
    )


def _from_tree(
    spec: Any, paths: list[str], what: str, check: Callable[[Any, str], Any]
) -> list[Any]:
    named = _tree.named_leaves(spec)
    if not named or any(not _is_number(value) for _, value in named):
        raise TypeError(
            f"{what} is a number, rules from paths to numbers, or a tree like the scores of "
            f"numbers; got {type(spec).__name__} {jax.tree.structure(spec)}."
        )
    given = {path: check(value, what) for path, value in named}
    unknown = sorted(given.keys() - set(map(leaf_path, paths)))
    if unknown:
        raise ValueError(_no_leaf(unknown[0], paths, what))
    return [given.get(leaf_path(path)) for path in paths]
