"""Wanda: weights times given norms; the norms themselves are tested with `input_norms`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_by_hand(dtype):
    params = {"w": jnp.array([[-2, 1], [3, 0]], dtype), "b": jnp.zeros(2)}
    scores = jp.scores.wanda(params, {"w": jnp.array([[10.0], [0.5]]), "b": None})
    assert scores["b"] is None
    assert scores["w"].dtype == jnp.float32
    assert scores["w"].tolist() == [[20, 10], [1.5, 0]]
    compiled = jax.jit(jp.scores.wanda)(params, {"w": jnp.ones((2, 2)), "b": None})
    np.testing.assert_array_equal(compiled["w"], [[2, 1], [3, 0]])


def test_bad_input():
    params = {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match=r"nothing for the prunable leaf 'w'\. No matrix product"):
        jp.scores.wanda(params, {"w": None})
    for shape in [(2,), (3, 1), (1, 2), (1, 2, 1)]:
        with pytest.raises(ValueError, match=r"at 'w' have shape .* does not broadcast"):
            jp.scores.wanda(params, {"w": jnp.ones(shape)})
    with pytest.raises(ValueError, match="it has 'v' where 'w' is"):
        jp.scores.wanda(params, {"v": jnp.ones((2, 1))})
    with pytest.raises(ValueError, match="input norms at 'w' hold NaN"):
        jp.scores.wanda(params, {"w": jnp.full((2, 1), jnp.nan)})
