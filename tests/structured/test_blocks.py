"""Whole blocks: influence against NumPy, and networks without some against skipping them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.structured.checks import normal

st = jp.structured
WIDTH, DEPTH = 4, 5
STACK = {"w_1": normal(DEPTH, WIDTH, 6), "w_2": normal(DEPTH, 6, WIDTH, seed=2)}
X = normal(3, 2, WIDTH, seed=3)
KEPT = np.array([True, False, True, True, False])


def block(p, x):
    return x + jnp.tanh(x @ p["w_1"]) @ p["w_2"]


def scanned(params, x):
    return jax.lax.scan(lambda x, p: (block(p, x), x), x, params["layers"])[0]


def one_by_one(stack, x, kept):
    streams = [x]
    for i in np.flatnonzero(kept):
        streams.append(block(jax.tree.map(lambda w, i=i: w[i], stack), streams[-1]))
    return streams


def test_influence_by_numpy():
    streams = one_by_one(STACK, X, np.ones(DEPTH, bool))
    expected = []
    for a, b in itertools.pairwise(streams):
        a, b = (np.asarray(s, np.float64).reshape(-1, WIDTH) for s in (a, b))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        expected.append(1 - cosines.mean())
    found = st.block_influence(streams)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.jit(st.block_influence)(jnp.stack(streams)), found)


def test_stacked_blocks_go():
    params = {"layers": STACK, "head": normal(WIDTH, 2, seed=4)}
    small = st.keep_blocks(params, "layers", KEPT)
    np.testing.assert_allclose(
        scanned(small, X), one_by_one(STACK, X, KEPT)[-1], rtol=1e-5, atol=1e-6
    )
    assert small["head"] is params["head"]


def test_blocks_by_path_go_and_the_rest_is_renumbered():
    stack = [jax.tree.map(lambda w, i=i: w[i], STACK) for i in range(DEPTH)]
    expected = one_by_one(STACK, X, KEPT)[-1]

    def named(params, x, depth):
        for i in range(depth):
            x = block(params["net"][f"Block_{i}"], x)
        return x

    params = {"net": {f"Block_{i}": p for i, p in enumerate(stack)}, "head": jnp.ones(2)}
    small = st.keep_blocks(params, [f"net/Block_{i}" for i in range(DEPTH)], KEPT)
    assert list(small["net"]) == ["Block_0", "Block_1", "Block_2"]
    np.testing.assert_allclose(named(small, X, 3), expected, rtol=1e-5, atol=1e-6)
    assert len(params["net"]) == DEPTH, "the argument stays what it was"
    in_list = st.keep_blocks({"blocks": stack}, "blocks", KEPT)
    x = X
    for p in in_list["blocks"]:
        x = block(p, x)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_another_axis():
    params = {"layers": jax.tree.map(lambda w: jnp.moveaxis(w, 0, 1), STACK)}
    small = st.keep_blocks(params, "layers", KEPT, axis=1)
    np.testing.assert_array_equal(small["layers"]["w_1"][:, 1], STACK["w_1"][2])


def test_errors():
    with pytest.raises(ValueError, match="holds 5 blocks, but kept is of 2"):
        st.keep_blocks({"layers": STACK}, "layers", [True, False])
    with pytest.raises(ValueError, match="nothing at 'layer'"):
        st.keep_blocks({"layers": STACK}, "layer", KEPT)
    with pytest.raises(ValueError, match="no block is left"):
        st.keep_blocks({"layers": STACK}, "layers", ~KEPT & KEPT)
    with pytest.raises(TypeError, match="kept is bool"):
        st.keep_blocks({"layers": STACK}, "layers", [0, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="two or more arrays"):
        st.block_influence([X])
