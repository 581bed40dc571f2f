"""Layers that are stacked and scanned over: each has its own inputs, and its own Wanda masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp

DEPTH, WIDTH = 3, 4
_rng = np.random.default_rng(0)
KERNELS = _rng.normal(size=(DEPTH, WIDTH, WIDTH)).astype(np.float32)
BIASES = _rng.normal(size=(DEPTH, WIDTH)).astype(np.float32)
X = _rng.normal(size=(12, WIDTH)).astype(np.float32)


def layer(x, parts):
    kernel, bias = parts
    return jnp.tanh(x @ kernel + bias[None]), None


def unstacked(params, x):
    for i in range(DEPTH):
        x, _ = layer(x, (params[f"l{i}"]["kernel"], BIASES[i]))
    return x


def norms_of_unstacked(apply=unstacked):
    params = {f"l{i}": {"kernel": jnp.asarray(KERNELS[i])} for i in range(DEPTH)}
    norms = jp.scores.input_norms(apply, params, [X])
    return np.stack([norms[f"l{i}"]["kernel"] for i in range(DEPTH)])


def scan(kernels, x, biases=BIASES, **options):
    return jax.lax.scan(layer, x, (kernels, jnp.asarray(biases)), **options)[0]


def indexed(kernels, x):
    return jax.lax.scan(lambda x, i: layer(x, (kernels[i], jnp.asarray(BIASES)[i])), x,
                        jnp.arange(DEPTH))[0]  # fmt: skip


def carried(kernels, x):
    def body(carry, i):
        x, kernels = carry
        return (layer(x, (kernels[i], jnp.asarray(BIASES)[i]))[0], kernels), None

    return jax.lax.scan(body, (x, kernels), jnp.arange(DEPTH))[0][0]


def in_groups(kernels, x):
    """A scan over groups of layers, and one over the layers of each."""
    groups = kernels.reshape(DEPTH, 1, WIDTH, WIDTH), jnp.asarray(BIASES).reshape(DEPTH, 1, WIDTH)
    return jax.lax.scan(lambda x, group: jax.lax.scan(layer, x, group), x, groups)[0]


# How a function gets at the layers of an array, and the axis they are stacked along.
SCANS = {
    "over the first axis": (scan, 0),
    "over the second axis": (lambda w, x: scan(jnp.moveaxis(w, 1, 0), x), 1),
    "over the last axis": (lambda w, x: scan(jnp.moveaxis(w, -1, 0), x), 2),
    "backwards": (lambda w, x: scan(w[::-1], x, BIASES[::-1], reverse=True), 0),
    "indexed": (indexed, 0),
    "carried": (carried, 0),
    "in groups": (in_groups, 0),
    "by a loop": (
        lambda w, x: jax.lax.fori_loop(
            0, DEPTH, lambda i, x: layer(x, (w[i], jnp.asarray(BIASES)[i]))[0], x
        ),
        0,
    ),
}


@pytest.mark.parametrize("name", SCANS)
def test_scans_over_plain_arrays(name):
    run, axis = SCANS[name]
    params = {"kernel": jnp.moveaxis(jnp.asarray(KERNELS), 0, axis)}
    norms = jp.scores.input_norms(lambda p, x: run(p["kernel"], x), params, [X])["kernel"]
    found = np.moveaxis(np.asarray(norms), axis, 0)
    want = np.broadcast_to(norms_of_unstacked(), found.shape)
    np.testing.assert_allclose(found, want, rtol=1e-6)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(WIDTH)(x)), None


@pytest.mark.parametrize("axis", [0, 1])
def test_linen(axis):
    make = nn.scan(Layer, variable_axes={"params": axis}, split_rngs={"params": True}, length=DEPTH)
    params = {
        "Dense_0": {
            "kernel": jnp.moveaxis(jnp.asarray(KERNELS), 0, axis),
            "bias": jnp.moveaxis(jnp.asarray(BIASES), 0, axis),
        }
    }
    norms = jp.scores.input_norms(lambda p, x: make().apply({"params": p}, x, None), params, [X])
    found = np.moveaxis(np.asarray(norms["Dense_0"]["kernel"]), axis, 0)
    assert found.shape == (DEPTH, WIDTH, 1)
    np.testing.assert_allclose(found, norms_of_unstacked(), rtol=1e-6)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


@pytest.mark.parametrize("times", [1, 2])
def test_nnx(times):
    make = nnx.split_rngs(splits=DEPTH)(nnx.vmap(Block, in_axes=0, out_axes=0))
    blocks = make(nnx.Rngs(0))
    graph, state = nnx.split(blocks)
    state["linear"]["kernel"][...], state["linear"]["bias"][...] = KERNELS, BIASES

    def apply(state, x):
        run = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        merged = nnx.merge(graph, state, copy=True)
        for _ in range(times):
            x = run(merged, x)
        return x

    def plain(params, x):
        for _ in range(times):
            x = unstacked(params, x)
        return x

    found = jp.scores.input_norms(apply, state, [X])["linear"]["kernel"][...]
    np.testing.assert_allclose(found, norms_of_unstacked(plain), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_by_wanda_are_those_of_the_layers(axis):
    params = {"kernel": jnp.moveaxis(jnp.asarray(KERNELS), 0, axis)}

    def apply(p, x):
        return scan(jnp.moveaxis(p["kernel"], axis, 0), x)

    norms = jp.scores.input_norms(apply, params, [X])
    mask = jp.masks.make(
        jp.scores.wanda(params, norms),
        0.5,
        allocation=jp.masks.per_output(layout="flax"),
        stacked={"kernel": axis},
    )
    x = X
    for i in range(DEPTH):
        # By hand: each output unit loses the half of its weights with the least |w| ||x||.
        scores = np.abs(KERNELS[i]) * np.linalg.norm(x, axis=0)[:, None]
        kept = np.ones((WIDTH, WIDTH), bool)
        for unit in range(WIDTH):
            kept[np.argsort(scores[:, unit])[: WIDTH // 2], unit] = False
        np.testing.assert_array_equal(np.take(np.asarray(mask["kernel"]), i, axis), kept)
        x = np.tanh(x @ KERNELS[i] + BIASES[i])
