"""Networks to be pruned layer by layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Block(nn.Module):
    """Half a transformer's layer each: attention, then an MLP."""

    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm()(x))
        h = nn.gelu(nn.Dense(12, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(8, name="down")(h), None


class Scanned(nn.Module):
    """Three of them in a scan."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(4, name="head")(x)


class Unrolled(nn.Module):
    """The same without a scan."""

    @nn.compact
    def __call__(self, x):
        for k in range(3):
            x, _ = Block(name=f"layers_{k}")(x)
        return nn.Dense(4, name="head")(x)


def batches(shape, n=3, seed=0):
    drawn = np.random.default_rng(seed)
    return [jnp.asarray(drawn.normal(size=shape), jnp.float32) for _ in range(n)]


def unstacked(params):
    """Parameters of `Scanned` as those of `Unrolled`."""
    own = dict(params["params"])
    layers = own.pop("layers")
    for k in range(3):
        own[f"layers_{k}"] = jax.tree.map(lambda x, k=k: x[k], layers)
    return {"params": own}


def mlp():
    """Two products by hand."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "a": {"w": jax.random.normal(keys[0], (6, 10)), "b": jnp.ones((1, 10))},
        "b": {"w": jax.random.normal(keys[1], (10, 4))},
    }

    def apply(params, x):
        return jnp.tanh(x @ params["a"]["w"] + params["a"]["b"]) @ params["b"]["w"]

    return apply, params
