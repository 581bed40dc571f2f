"""Geometric median: sums of pairwise distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


def _definition(w, axis):
    filters = np.moveaxis(np.asarray(w, np.float64), axis, 0)
    return [sum(np.sqrt(np.sum((a - b) ** 2)) for b in filters) for a in filters]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("axis", [-1, 0, 2])
def test_definition(dtype, axis):
    w = jax.random.normal(jax.random.key(0), (3, 2, 4, 5)).astype(dtype)

    def score(params):
        return jp.scores.geometric_median(params, axis=axis)

    scores = score({"w": w, "b": jnp.ones(3)})
    assert scores["b"] is None
    assert scores["w"].shape == w.shape
    assert scores["w"].dtype == jnp.float32
    per_filter = np.moveaxis(np.asarray(scores["w"]), axis, 0).reshape(w.shape[axis], -1)
    want = _definition(w.astype(jnp.float32), axis)
    np.testing.assert_allclose(per_filter, np.repeat(want, per_filter.shape[1]).reshape(
        per_filter.shape), rtol=1e-5)  # fmt: skip
    compiled = jax.jit(score)({"w": w, "b": jnp.ones(3)})
    np.testing.assert_allclose(compiled["w"], scores["w"], rtol=1e-6)


def test_equal_filters_have_distance_zero():
    w = jnp.full((100, 3), 1 / 3)
    assert jp.scores.geometric_median({"w": w})["w"].max() == 0


def test_axis_by_path():
    params = {"conv": {"w": jnp.eye(3)[:2]}, "dense": {"w": jnp.eye(3)[:2]}}

    def axis(path, leaf):
        return 0 if path == "conv/w" else -1

    scores = jp.scores.geometric_median(params, axis=axis)
    np.testing.assert_allclose(scores["conv"]["w"], np.full((2, 3), np.sqrt(2)), rtol=1e-6)
    row = [np.sqrt(2) + 1, np.sqrt(2) + 1, 2]
    np.testing.assert_allclose(scores["dense"]["w"], [row, row], rtol=1e-6)


def test_filters_are_compared_by_their_score_and_not_by_their_fan_in():
    # Filters of "a" are 3 and more apart in total, those of "b" less, but there are more rows.
    a = jnp.zeros((2, 3)).at[0].set(jnp.array([0.0, 1.0, 3.0]))
    params = {"a": {"w": a}, "b": {"w": jnp.zeros((100, 3)).at[:2].set(0.1 * a)}}
    scores = jp.scores.geometric_median(params)
    pattern = jp.masks.channels(norm="max")
    allocation = jp.masks.globally(on_collapse="allow")
    mask = jp.masks.make(scores, 0.5, pattern=pattern, allocation=allocation)
    assert mask["a"]["w"].all()
    assert not mask["b"]["w"].any()


def test_bad_input():
    params = {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match=r"axis 2 is out of range for 'w' of shape \(2, 3\)"):
        jp.scores.geometric_median(params, axis=2)
    with pytest.raises(TypeError, match="integer"):
        jp.scores.geometric_median(params, axis=lambda path, leaf: 0.5)
    with pytest.raises(ValueError, match="weights at 'w' hold inf"):
        jp.scores.geometric_median({"w": jnp.full((2, 3), jnp.inf)})
