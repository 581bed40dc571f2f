"""Reasons that name inputs and results, and what to do where the two are one carry or cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.structured.analysis._tracked import Tracked
from jaxprune.structured.analysis._units import Units


def meets(axis: int, path: str) -> str:
    """The reason of what runs along an axis of an input."""
    return f"it meets axis {axis} of input {path}"


def reaches(axis: int, path: str) -> str:
    """The reason of what runs along an axis of a result."""
    return f"it reaches axis {axis} of the result" + (f" {path!r}" if path else "")


def hints(
    units: Units, inputs: Sequence[tuple[str, Any]], results: Sequence[tuple[str, Any, Tracked]]
) -> dict[str, str]:
    """What to do about an input and a result that may be two values of one carry or cache.

    They look so where they have one shape and one type, and hang together, are called the same, or
    are the only ones of their kind beside others.

    Args:
      units: what vanishes together, before the results are fixed.
      inputs: paths and arrays.
      results: paths, arrays and what is known of them.

    Returns:
      By the texts of reasons.
    """
    entering = [(path, x) for path, x in inputs if hasattr(x, "dtype") and np.size(x) > 1]
    ins = Counter(_kind(x) for _, x in entering)
    outs = Counter(_kind(x) for _, x, _ in results)
    found: dict[str, str] = {}
    for path, x in entering:
        kind, name = _kind(x), _last(path)
        lonely = ins[kind] == outs[kind] == 1 and len(inputs) > 1 and len(results) > 1
        for where, y, value in results:
            if _kind(y) != kind:
                continue
            if lonely or (name and _last(where) == name) or _hang_together(units, path, value):
                ends = f"the result {where!r}" if where else "the result"
                hint = (
                    f"If {ends} is the new value of input {path} (a carry, a cache), put it into "
                    "the first argument, and return it under the same path."
                )
                for axis in range(len(value.nodes)):
                    found.setdefault(meets(axis, path), hint)
                    found.setdefault(reaches(axis, where), hint)
    return found


def _kind(x: Any) -> Any:
    return tuple(np.shape(x)), x.dtype


def _last(path: str) -> str:
    """The last part of a path, if it is a name."""
    last = path.rsplit("/", 1)[-1]
    return "" if last.isdigit() else last


def _hang_together(units: Units, path: str, value: Tracked) -> bool:
    return all(
        len(nodes) == 1
        or (
            bool(units.is_fixed(nodes).all())
            and meets(axis, path) in {reason.text for reason in units.reasons(nodes)}
        )
        for axis, nodes in enumerate(value.nodes)
    )
