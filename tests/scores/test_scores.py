"""Scores of the spine: magnitude and random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_magnitude(dtype):
    scores = jp.scores.magnitude({"kernel": jnp.array([[-2, 1]], dtype), "bias": jnp.ones(2)})
    assert scores["bias"] is None
    assert scores["kernel"].dtype == dtype
    assert scores["kernel"].tolist() == [[2, 1]]


def test_random_depends_on_key_and_leaf_but_not_on_the_others():
    params = {"a": {"kernel": jnp.ones((50, 40))}, "b": {"kernel": jnp.ones((50, 40))}}
    scores = jp.scores.random(jax.random.key(0), params)
    again = jp.scores.random(jax.random.key(0), params)
    other = jp.scores.random(jax.random.key(1), params)
    a = np.asarray(scores["a"]["kernel"])
    np.testing.assert_array_equal(a, again["a"]["kernel"])
    assert not np.array_equal(a, other["a"]["kernel"])
    assert not np.array_equal(a, scores["b"]["kernel"])
    assert a.min() >= 0
    assert a.max() < 1
    assert abs(a.mean() - 0.5) < 0.03


def test_bad_input():
    for make in (jp.scores.magnitude, lambda p, **k: jp.scores.random(jax.random.key(0), p, **k)):
        with pytest.raises(ValueError, match="no prunable leaf"):
            make({"bias": jnp.ones(3)})
        with pytest.raises(TypeError, match="only floating leaves"):
            make({"w": jnp.ones((3, 3), jnp.int32)}, where=lambda path, leaf: True)
    with pytest.raises(ValueError, match="weights at 'w' hold NaN"):
        jp.scores.magnitude({"w": jnp.full((2, 2), jnp.nan)})
