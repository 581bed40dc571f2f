"""SNIP: normalised over all prunable leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


def test_sums_to_one_over_all_leaves():
    params = {"a": {"w": jnp.array([[-2.0]]), "b": jnp.array([7.0])}, "w": jnp.array([[1.0, 3.0]])}
    grads = {"a": {"w": jnp.array([[0.5]]), "b": jnp.array([7.0])}, "w": jnp.array([[-4.0, 1.0]])}
    scores = jp.scores.snip(params, grads)
    assert scores["a"]["b"] is None
    np.testing.assert_allclose(scores["a"]["w"], [[1 / 8]])
    np.testing.assert_allclose(scores["w"], [[4 / 8, 3 / 8]])


def test_zero_gradients():
    params, grads = {"w": jnp.ones((2, 2))}, {"w": jnp.zeros((2, 2))}
    with pytest.raises(ValueError, match="every product of weight and gradient is zero"):
        jp.scores.snip(params, grads)
    assert jax.jit(jp.scores.snip)(params, grads)["w"].tolist() == [[0, 0], [0, 0]]
