"""The weights that are pruned: shapes of networks, and scores drawn for them."""

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

Shape = tuple[int, ...]


def resnet50() -> dict[str, Shape]:
    """The prunable weights of ResNet-50 on ImageNet: 53 convolutions (HWIO) and a dense layer."""
    shapes: list[Shape] = [(7, 7, 3, 64)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            if block == 0:
                shapes.append((1, 1, channels, 4 * width))  # the shortcut
            channels = 4 * width
    named = {f"conv_{i:02}/kernel": shape for i, shape in enumerate(shapes)}
    return {**named, "dense/kernel": (channels, 1000)}


def _equal(leaves: int, shape: Shape) -> dict[str, Shape]:
    return {f"dense_{i:02}/kernel": shape for i in range(leaves)}


SIZES: dict[str, dict[str, Shape]] = {
    "1m": _equal(1, (1000, 1000)),
    "10m": _equal(10, (1000, 1000)),
    "resnet50": resnet50(),
    "1b": _equal(8, (10_000, 12_500)),
}


def size(shapes: Mapping[str, Shape]) -> int:
    """The number of weights."""
    return sum(map(math.prod, shapes.values()))


def he_scores(shapes: Mapping[str, Shape], *, dtype: str, seed: int) -> dict[str, jax.Array]:
    """Magnitudes of He-normal weights: standard deviation sqrt(2 / fan-in), one key a leaf."""
    key = jax.random.key(seed)
    return {
        name: _he_leaf(jax.random.fold_in(key, i), shape, dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }


@partial(jax.jit, static_argnums=(1, 2))
def _he_leaf(key: jax.Array, shape: Shape, dtype: str) -> jax.Array:
    deviation = math.sqrt(2 / math.prod(shape[:-1]))
    return jnp.abs(deviation * jax.random.normal(key, shape, jnp.float32)).astype(dtype)
