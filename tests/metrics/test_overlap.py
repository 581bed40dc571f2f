"""How much two masks agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp

A = {"a": jnp.array([[True, True, False]]), "b": None, "c": jnp.array([False, True, True])}
B = {"a": jnp.array([[True, False, True]]), "b": None, "c": jnp.array([False, False, False])}


def test_over_all_and_per_leaf():
    assert jp.metrics.iou(A, B) == 1 / 5
    assert jp.metrics.hamming(A, B) == 4 / 6
    rows = jp.metrics.overlap_per_leaf(A, B)
    assert [(r.path, r.intersection, r.union, r.size) for r in rows] == [
        ("a", 1, 3, 3),
        ("c", 0, 2, 3),
    ]
    assert [(r.iou, r.hamming) for r in rows] == [(1 / 3, 2 / 3), (0.0, 2 / 3)]


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_equals_numpy_and_is_symmetric(seed, density):
    rng = np.random.default_rng(seed)
    x, y = (rng.random((2, 40)) < density for _ in range(2))
    a, b = {"w": jnp.asarray(x)}, {"w": jnp.asarray(y)}
    union = int(np.sum(x | y))
    assert jp.metrics.iou(a, b) == (int(np.sum(x & y)) / union if union else 1.0)
    assert jp.metrics.hamming(a, b) == int(np.sum(x != y)) / 80
    assert jp.metrics.iou(a, b) == jp.metrics.iou(b, a)
    assert jp.metrics.hamming(a, b) == jp.metrics.hamming(b, a)


def test_the_ends():
    complement = jp.masks.complement(A)
    assert (jp.metrics.iou(A, A), jp.metrics.hamming(A, A)) == (1.0, 0.0)
    assert (jp.metrics.iou(A, complement), jp.metrics.hamming(A, complement)) == (0.0, 1.0)
    nothing = jp.masks.intersection(A, complement)
    assert (jp.metrics.iou(nothing, nothing), jp.metrics.hamming(nothing, nothing)) == (1.0, 0.0)


def test_exact_past_float32():
    n = 2**24 + 2
    a = {"w": jnp.ones((n,), bool)}
    b = {"w": jnp.ones((n,), bool).at[0].set(False)}
    assert jp.metrics.iou(a, b) == (n - 1) / n
    assert jp.metrics.hamming(a, b) == 1 / n


def test_sharded_masks():
    mesh = Mesh(np.array(jax.devices()), ("x",))
    x, y = (np.random.default_rng(i).random((8, 4)) < 0.5 for i in range(2))
    spread = {"w": jax.device_put(x, NamedSharding(mesh, PartitionSpec("x")))}
    other = {"w": jax.device_put(y, NamedSharding(mesh, PartitionSpec("x")))}
    assert jp.metrics.iou(spread, other) == np.sum(x & y) / np.sum(x | y)
    # A mask from a file lies on the host.
    assert jp.metrics.hamming(spread, {"w": y}) == np.sum(x != y) / 32


def test_bad_input():
    for f in (jp.metrics.iou, jp.metrics.hamming, jp.metrics.overlap_per_leaf):
        with pytest.raises(ValueError, match="only the first mask has a leaf at 'c'"):
            f(A, {**B, "c": None})
        with pytest.raises(ValueError, match=r"shape \(1, 3\) at 'a', the second \(3,\)"):
            f(A, {**B, "a": jnp.ones(3, bool)})
        with pytest.raises(TypeError, match="'a' has dtype int32"):
            f(A, {**B, "a": jnp.ones((1, 3), jnp.int32)})
    with pytest.raises(ValueError, match="no prunable weight"):
        jp.metrics.hamming({"a": None}, {"a": None})
