"""N:M step by step: more of each group goes as training goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _layers
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree
from jaxprune.masks import _make, _plan, _rules_of_layers
from jaxprune.masks._plan import Plan
from jaxprune.masks.patterns import Pattern, PatternSpec


def plan_groups(
    like: PyTree, pattern: Pattern, shares: Sequence[float], *, stacked: Stacked | None = None
) -> Plan:
    """Prepares masks that reach an N:M pattern step by step: more of each group goes.

    Args:
      like: the scores that will come, or their shapes; `None` where a leaf is not prunable.
      pattern: an N:M pattern, such as `nm`. Leaves for which it is `None` stay dense.
      shares: for each mask the fraction, in [0, 1], of the m - n weights that go of each group of
        m; rounded to a number, halves to even.
      stacked: as for `make`.

    Returns:
      A `Plan`, whose ``make`` takes an index into ``shares``.

    Raises:
      ValueError: if the pattern does not fit, or does not fix how many weights of a group stay.
      TypeError: if a leaf is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"w": jnp.array([[4.0, 1.0, 2.0, 3.0]])}
      >>> plan = plan_groups(scores, jp.masks.nm(2, 4, axis=1), [0.5, 1.0])
      >>> [plan.make(scores, i)["w"][0].tolist() for i in (0, 1)]
      [[True, False, True, True], [True, False, False, True]]
    """

    def partway(share: float) -> Pattern:
        def at(path: str, leaf: Any) -> PatternSpec | None:
            spec = pattern(path, leaf)
            if spec is None:
                return PatternSpec((0,), (1,), kept=1)  # nothing goes
            if spec.kept is None:
                raise ValueError(
                    f"the pattern does not fix how many weights of a group stay in {path!r}: "
                    f"{spec}. Pass a sparsity with it, or an N:M pattern such as jp.masks.nm(2, 4, "
                    "...) alone."
                )
            size = math.prod(spec.group)
            return spec._replace(kept=size - round(share * (size - spec.kept)))

        return at

    _make.check_trees(like, None)
    axes = _layers.axes_of(stacked, like)
    steps = [_rules_of_layers.specs_of(partway(share), like, axes) for share in shares]
    different = list(dict.fromkeys(steps))
    # One program for all masks that are alike: a group of 4 that ends with 2 has 3 of them.
    place = np.array([different.index(specs) for specs in steps], np.int32)
    plans = [partway(shares[steps.index(specs)]) for specs in different]
    rules: Any = {"allocation": None, "stacked": stacked}
    parts = [_plan.plan(like, (None,), pattern=p, **rules) for p in plans]

    def make(scores: PyTree, index: Any, *, within: PyTree | None = None) -> PyTree:
        index = jnp.clip(jnp.asarray(index, jnp.int32), 0, len(steps) - 1)

        def branch(part: Plan) -> Any:
            return lambda: part.make(scores, 0, within=within)

        return jax.lax.switch(jnp.asarray(place)[index], [branch(part) for part in parts])

    return Plan((None,) * len(steps), make)
