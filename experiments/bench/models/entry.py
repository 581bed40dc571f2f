"""What is known of a model before it is built, and what is left of it when it is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Model(NamedTuple):
    """A model in inference mode."""

    apply: Callable[..., Any]  # ``apply(params, *inputs)``
    params: Any  # weights and statistics, floating arrays only
    inputs: tuple[Any, ...]


class Entry(NamedTuple):
    """How a model is made."""

    package: str  # the distribution that has it, or what is written out by hand: "after NAME"
    modules: tuple[str, ...]  # what has to be importable
    make: Callable[[], Model]
    what: str  # the sizes of inputs, in words


def drawn(params: Any, seed: int = 0) -> Any:
    """The same tree with noise added: zeros of an initialisation would hide wrong results.

    Variances stay positive: what is at least 0 in every entry stays so.
    """
    rng = np.random.default_rng(seed)

    def leaf(x: Any) -> Any:
        x = np.asarray(x)
        scale = 0.1 * float(np.abs(x).mean()) + 0.02
        moved = x + scale * rng.normal(size=x.shape)
        return jax.numpy.asarray(np.abs(moved) if (x >= 0).all() and x.any() else moved, x.dtype)

    return jax.tree.map(leaf, params)


def floating(leaf: Any) -> bool:
    """Whether a leaf is an array of weights or statistics, not of counters, tokens or keys."""
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)


def images(*shape: int, seed: int = 0) -> jax.Array:
    """Normal float32 inputs of a shape."""
    return jax.numpy.asarray(np.random.default_rng(seed).normal(size=shape), jax.numpy.float32)


def tokens(*shape: int, vocabulary: int = 50, seed: int = 0) -> jax.Array:
    """Token numbers from 5 on, int32: lower ones may be special."""
    drawn_ = np.random.default_rng(seed).integers(5, vocabulary, size=shape)
    return jax.numpy.asarray(drawn_, jax.numpy.int32)


Entries = Mapping[str, Entry]
