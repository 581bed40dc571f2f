"""The mask of one array as a function of scores and counts, both of them data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.masks import _engine, _plan
from jaxprune.masks._parts import Layout
from jaxprune.masks.allocations import Allocation
from jaxprune.masks.patterns import Pattern, PatternSpec


class Choice(NamedTuple):
    """How one array is pruned, without how much of it: hashable, so that `jit` can hold it static.

    Attributes:
      layout: which weights are counted together, and which go together.
    """

    layout: Layout

    @property
    def spec(self) -> PatternSpec | None:
        """The pattern, `None` if the array is unstructured."""
        return self.layout.specs[0]

    @property
    def units(self) -> tuple[int, ...]:
        """The axes of the output units where each of them is counted for itself, else ``()``."""
        return self.layout.units[0]

    def make(self, scores: jax.Array, counts: jax.Array) -> jax.Array:
        """Removes the lowest scores, as `masks.make` orders them.

        Args:
          scores: traced floating array, of the shape that `choice` was given or one that the
            pattern divides as well.
          counts: uint32 ``[pools, 2]``, how many entries go, in limbs: a row of what `choice`
            returns.

        Returns:
          The mask, True = kept.
        """
        masks, *_ = _engine.masks_of([scores], None, list(counts), None, self.layout)
        return masks[0]


def choice(
    like: jax.ShapeDtypeStruct,
    sparsities: Sequence[Any],
    *,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    path: str = "kernel",
) -> tuple[Choice, np.ndarray]:
    """Prepares the masks of one array, for compiled code that serves every sparsity.

    As `plan`, which holds the counts in the program; here they are arguments of it. Scores are not
    rescaled, which inside one array changes nothing.

    Args:
      like: the shape and dtype of the scores.
      sparsities: the targets, Python numbers in [0, 1), or `None` with an N:M pattern.
      allocation: as for `make`, without limits.
      pattern: as for `make`.
      path: what the pattern and the allocation are told is the path, and what errors name.

    Returns:
      The `Choice`, and how many entries go, uint32 ``[sparsities, pools, 2]``, in limbs; without
      pools where an N:M pattern fixes the number.

    Raises:
      ValueError: what `make` raises without looking at any score; if the allocation has limits.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([[0.3, 0.1], [0.2, 0.9]])
      >>> rule, counts = choice(jax.eval_shape(lambda: scores), [0.25, 0.5])
      >>> jax.jit(rule.make)(scores, counts[1]).tolist()
      [[True, False], [False, True]]
    """
    # A tree whose only leaf has that path, for rules on paths.
    tree: Any = like
    for part in reversed(path.split("/")):
        tree = {part: tree}
    counted = _plan.counted(tree, sparsities, allocation=allocation, pattern=pattern)
    if counted.limits is not None:
        raise ValueError(f"the allocation of {path!r} has limits, which one array cannot meet.")
    return Choice(counted.layout), counted.table.astype(jnp.uint32)
