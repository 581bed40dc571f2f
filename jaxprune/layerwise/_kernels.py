"""The kernel of a product as a matrix: taken out of its leaf, and put back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.layerwise.program import Site


@jax.jit
def taken(leaf: jax.Array, entries: Any) -> jax.Array:
    """The kernel ``[..., in, out]`` at some places of the flattened leaf."""
    return leaf.reshape(-1)[entries]


@jax.jit
def replaced(leaf: jax.Array, entries: Any, kernel: jax.Array) -> jax.Array:
    """The leaf with a kernel at these places."""
    flat = leaf.reshape(-1).at[entries.reshape(-1)].set(kernel.reshape(-1).astype(leaf.dtype))
    return flat.reshape(leaf.shape)


def kernel_of(leaves: list[Any], site: Site) -> jax.Array:
    """The kernel of a product, ``[..., in, out]``."""
    return taken(jnp.asarray(leaves[site.leaf]), site.entries)


def put(leaves: list[Any], site: Site, kernel: jax.Array) -> None:
    """Puts a kernel back into its leaf."""
    leaf = jnp.asarray(leaves[site.leaf])
    leaves[site.leaf] = beside(replaced(leaf, site.entries, kernel), leaf)


def beside(x: jax.Array, leaf: Any) -> jax.Array:
    """An array where a parameter of its shape lies."""
    committed = isinstance(leaf, jax.Array) and leaf.committed
    return jax.device_put(x, leaf.sharding) if committed else x
