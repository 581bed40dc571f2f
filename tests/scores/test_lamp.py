"""LAMP: values from the definition, and an order that rounding cannot change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp


def _definition(u):
    u = np.asarray(u, np.float64).ravel()
    order = sorted(range(len(u)), key=lambda i: (u[i], i))
    scores = np.zeros(len(u))
    for k, i in enumerate(order):
        rest = sum(u[j] ** 2 for j in order[k:])
        scores[i] = u[i] ** 2 / rest if rest > 0 else 0.0
    return scores


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_definition(dtype):
    u = jnp.abs(jax.random.normal(jax.random.key(0), (7, 11))).astype(dtype)
    scores = jp.scores.lamp({"w": u, "b": None})
    assert scores["b"] is None
    assert scores["w"].dtype == jnp.float32
    want = _definition(u.astype(jnp.float32)).reshape(7, 11)
    np.testing.assert_allclose(scores["w"], want, rtol=1e-5)


def test_ties_go_by_index():
    scores = jp.scores.lamp({"w": jnp.array([2.0, 1.0, 2.0, 1.0])})["w"]
    np.testing.assert_allclose(scores, [4 / 8, 1 / 10, 1, 1 / 9], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_does_not_matter(scale):
    u = jnp.array([3.0, 1.0, 2.0])
    scores = jp.scores.lamp({"w": u * scale})["w"]
    np.testing.assert_allclose(scores, [1, 1 / 14, 4 / 13], rtol=1e-5)


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=12, max_size=12))
def test_monotone_and_bounded(values):
    u = np.asarray(values + values[:5], np.float32)
    scores = np.asarray(jp.scores.lamp({"w": jnp.asarray(u)})["w"])
    order = sorted(range(len(u)), key=lambda i: (u[i], i))
    assert (np.diff(scores[order]) >= 0).all()
    assert np.isfinite(scores).all()
    tiny = np.finfo(np.float32).tiny
    assert scores.max() == (1 if u.max() >= tiny else 0)
    assert scores.min() >= 0


def test_monotone_over_many_close_values():
    u = jax.random.uniform(jax.random.key(0), (1 << 16,), minval=1.0, maxval=1.001)
    scores = np.asarray(jp.scores.lamp({"w": u})["w"])
    assert (np.diff(scores[np.argsort(np.asarray(u), kind="stable")]) >= 0).all()
    assert (scores == 1).sum() == 1


def test_within_counts_as_zero():
    u = jnp.array([[3.0, 1.0], [2.0, 5.0]])
    within = jnp.array([[True, True], [True, False]])
    scores = jp.scores.lamp({"w": u, "b": None}, within={"w": within, "b": None})["w"]
    np.testing.assert_allclose(scores, [[1, 1 / 14], [4 / 13, 0]], rtol=1e-6)
    assert jp.scores.lamp({"w": jnp.zeros((2, 2))})["w"].tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="mask `within` has shape"):
        jp.scores.lamp({"w": u}, within={"w": within[0]})


def test_jit_vmap_and_sharding():
    u = jnp.abs(jax.random.normal(jax.random.key(1), (8, 6)))
    want = jp.scores.lamp({"w": u})["w"]
    np.testing.assert_allclose(jax.jit(jp.scores.lamp)({"w": u})["w"], want, rtol=1e-6)
    stacked = jax.vmap(jp.scores.lamp)({"w": jnp.stack([u, u[::-1]])})["w"]
    np.testing.assert_allclose(stacked[0], want, rtol=1e-6)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    got = jax.jit(jp.scores.lamp)({"w": jax.device_put(u, split)})["w"]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_float64():
    with jax.enable_x64(True):
        scores = jp.scores.lamp({"w": jnp.array([1.0, 1e-30, 2.0], jnp.float64)})["w"]
        assert scores.dtype == jnp.float64
        np.testing.assert_allclose(scores, [1 / 5, 1e-60 / 5, 1], rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="scores at 'w' are negative somewhere"):
        jp.scores.lamp({"w": jnp.array([1.0, -1.0])})
    with pytest.raises(ValueError, match="scores at 'w' hold NaN"):
        jp.scores.lamp({"w": jnp.array([1.0, jnp.nan])})
