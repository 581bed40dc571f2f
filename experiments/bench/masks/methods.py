"""Ours, as methods to be timed, and how many weights each is to keep."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.bench.common import timing as _timing
from experiments.bench.masks import problems as _shapes

Scores = Mapping[str, jax.Array]

GLOBAL, UNIFORM, ERK, N_M = "ours, global", "ours, uniform", "ours, ERK", "ours, 2:4"
OURS = (GLOBAL, UNIFORM, ERK, N_M)
EAGER = "ours, global, outside of jit"  # on a CPU: made on the host, without compiling


def makers(sparsity: float) -> dict[str, Callable[[Any], Any]]:
    """By name the functions from scores to a mask."""
    pattern = jp.masks.nm(2, 4, layout="flax", remainder="dense")
    return {
        GLOBAL: lambda scores: jp.masks.make(scores, sparsity),
        UNIFORM: lambda scores: jp.masks.make(scores, sparsity, allocation=jp.masks.uniform()),
        ERK: lambda scores: jp.masks.make(scores, sparsity, allocation=jp.masks.erk()),
        N_M: lambda scores: jp.masks.make(scores, None, pattern=pattern),
    }


def targets(shapes: Mapping[str, _shapes.Shape], sparsity: float) -> dict[str, int]:
    """By name how many weights are to be kept, from the shapes alone."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    total = sum(sizes) - round(sparsity * sum(sizes))
    groups = sum(math.prod(s[:-2]) * s[-1] * (s[-2] // 4) for s in shapes.values())
    return {
        GLOBAL: total,
        UNIFORM: sum(n - round(sparsity * n) for n in sizes),
        ERK: total,
        N_M: sum(sizes) - 2 * groups,
    }


def count(masks: Any) -> int:
    """The number of True in a tree of bool arrays, counted on the host."""
    return sum(int(np.count_nonzero(np.asarray(leaf))) for leaf in jax.tree.leaves(masks))


@jax.jit
def lowest_kept(scores: Any, masks: Any) -> jax.Array:
    """The threshold of a mask: the lowest score that it keeps."""
    each = jax.tree.map(lambda s, m: jnp.min(jnp.where(m, s, jnp.inf)), scores, masks)
    return jnp.min(jnp.stack(jax.tree.leaves(each)))


def of_jax(
    name: str, function: Callable[..., Any], *arguments: Any, free: int, slow: bool = False
) -> _timing.Method:
    """A method that is one compiled function of fixed arguments.

    Args:
      name: its name.
      function: from ``arguments`` to a tree of masks.
      *arguments: what it is called with.
      free: bytes that may be used.
      slow: whether fewer runs are allowed.

    Returns:
      The method.

    Raises:
      Unavailable: if its temporaries and its output need more than is free.
    """
    compiled = _timing.compiled(function, *arguments)
    _timing.check_memory(compiled.new_bytes, free)
    return _timing.Method(
        name,
        run=lambda arguments: jax.block_until_ready(compiled.call(*arguments)),
        fresh=lambda: arguments,
        kept=count,
        slow=slow,
        compiled=compiled,
    )


def eager(scores: Scores, sparsity: float) -> _timing.Method:
    """The first of ours as it is called outside of `jit`, with its checks."""
    exact = targets({name: x.shape for name, x in scores.items()}, sparsity)[GLOBAL]
    whole = jp.masks.globally(on_collapse="allow")  # compiled code does not refuse it either
    return _timing.Method(
        EAGER,
        run=lambda scores: jax.block_until_ready(jp.masks.make(scores, sparsity, allocation=whole)),
        fresh=lambda: scores,
        kept=count,
        exact=exact,
    )
