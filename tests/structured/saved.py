"""Networks that are shrunk here and loaded in another process: `python -m tests.structured.saved`.

The names stand at the top level so that the functions pickle.
"""

import pathlib
import pickle
import sys
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxprune as jp


class Layer(NamedTuple):
    w: jax.Array
    b: jax.Array


def mlp(params, x):
    for layer in params["hidden"]:
        x = jax.nn.gelu(x @ layer.w + layer.b[None])
    return x @ params["out"]


def mlp_params(key):
    a, b, c = (
        jax.random.normal(k, s) for k, s in zip(jax.random.split(key, 3), SIZES, strict=True)
    )
    return {"hidden": (Layer(a, jnp.ones(6)), Layer(b, jnp.ones(5))), "out": c}


SIZES = ((3, 6), (6, 5), (5, 2))


def tied(params, tokens):
    """The embedding is the classifier, and the layers lie in one stack."""

    def block(x, w):
        return x + jnp.tanh(x @ w["up"]) @ w["down"], None

    x, _ = jax.lax.scan(block, params["embed"][tokens], params["stack"])
    return x @ params["embed"].T


def tied_params(key):
    keys = jax.random.split(key, 3)
    stack = {
        "up": jax.random.normal(keys[1], (3, 4, 8)),
        "down": jax.random.normal(keys[2], (3, 8, 4)),
    }
    return {"embed": jax.random.normal(keys[0], (7, 4)), "stack": stack}


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(False)(nn.Conv(6, (3, 3))(x)))
        y = nn.relu(y + nn.Conv(6, (3, 3))(y))
        return nn.Dense(3)(y.mean((1, 2)))


def linen(variables, x):
    return Net().apply(variables, x, mutable=["batch_stats"])


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def nnx_parts():
    return nnx.split(nnx.eval_shape(lambda: NNXNet(nnx.Rngs(0))))


def nnx_apply(state, x):
    module = nnx.merge(nnx_parts()[0], state)
    return module(x), nnx.state(module)


class EqxNet(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear
    activation: object = eqx.field(static=True)

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.first, self.last = eqx.nn.Linear(3, 6, key=a), eqx.nn.Linear(6, 2, key=b)
        self.activation = jax.nn.silu

    def __call__(self, x):
        return self.last(self.activation(self.first(x)))


def eqx_apply(model, x):
    return jax.vmap(model)(x)


X, IMAGES = np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3), np.ones((2, 4, 4, 3), "float32")
TOKENS = np.arange(6, dtype="int32").reshape(2, 3)

# The function, what makes its abstract parameters, inputs, and whether these need a `like`.
NETWORKS = {
    "mlp": (mlp, mlp_params, X, True),
    "tied": (tied, tied_params, TOKENS, False),
    "linen": (linen, lambda key: Net().init(key, IMAGES), IMAGES, False),
    "nnx": (nnx_apply, lambda key: nnx_parts()[1], X, True),
    "equinox": (eqx_apply, EqxNet, X, True),
}


def abstract(name):
    return eqx.filter_eval_shape(NETWORKS[name][1], jax.random.key(0))


def others(folder):
    """Loads all networks of a folder and writes what they compute."""
    results = {}
    for name, (apply, _, x, needs_like) in NETWORKS.items():
        like = abstract(name) if needs_like else None
        small_apply, small = jp.structured.load(folder / f"{name}.safetensors", apply, x, like=like)
        more = np.concatenate([x, x])  # another batch than that of the file
        for i, inputs in enumerate((x, more)):
            leaves = jax.tree.leaves(jax.jit(small_apply)(small, inputs))
            results |= {f"{name}/{i}/{k}": np.asarray(leaf) for k, leaf in enumerate(leaves)}
    for name in ("pickle", "cloudpickle"):
        small_apply, small = pickle.loads((folder / name).read_bytes())
        results[name] = np.asarray(small_apply(small, X))
    np.savez(folder / "results.npz", **results)


if __name__ == "__main__":
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        others(pathlib.Path(sys.argv[1]))
