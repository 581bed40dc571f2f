"""SynFlow: by hand, conservation, and inputs of every kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


def _layers(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"w0": (3, 5), "b0": (5,), "w1": (5, 4), "w2": (4, 2)}
    return {k: jax.device_put(rng.normal(size=s).astype(dtype)) for k, s in shapes.items()}


def _apply(params, x):
    x = nn.relu(x @ params["w0"])
    return nn.relu(x @ params["w1"]) @ params["w2"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_paths_through_a_network(dtype):
    params = _layers(dtype)
    scores = jp.scores.synflow(_apply, params, jnp.zeros((1, 3), dtype))
    w0, w1, w2 = (np.abs(np.asarray(params[k].astype(jnp.float32))) for k in ("w0", "w1", "w2"))
    np.testing.assert_allclose(scores["w0"], w0 * (w1 @ w2).sum(axis=1)[None], rtol=1e-5)
    np.testing.assert_allclose(
        scores["w1"], w0.sum(axis=0)[:, None] * w1 * w2.sum(axis=1)[None], rtol=1e-5
    )
    # Flow is conserved: every layer carries all of it.
    totals = [float(scores[k].sum()) for k in ("w0", "w1", "w2")]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)
    assert scores["b0"] is None
    assert scores["w0"].dtype == jnp.float32


def test_only_shapes_of_the_inputs_matter():
    params = _layers()
    want = jp.scores.synflow(_apply, params, jnp.full((1, 3), 7.0))["w1"]
    shape = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    np.testing.assert_array_equal(jp.scores.synflow(_apply, params, shape)["w1"], want)
    compiled = jax.jit(lambda params: jp.scores.synflow(_apply, params, shape))(params)
    np.testing.assert_allclose(compiled["w1"], want, rtol=1e-5)


def test_tokens_flags_and_integer_leaves():
    params = {"embed": jnp.array([[1.0], [-5.0]]), "w": jnp.array([[2.0]]), "step": jnp.int32(1)}

    def apply(params, tokens, train):
        assert train is False
        return {"logits": params["embed"][tokens] @ params["w"], "tokens": tokens}

    scores = jp.scores.synflow(apply, params, jnp.array([1]), False)
    assert scores["w"].tolist() == [[10]]
    scores = jp.scores.synflow(apply, params, jax.ShapeDtypeStruct((1,), jnp.int32), False)
    assert scores["w"].tolist() == [[2]]
    assert scores["step"] is None


def test_bad_input():
    params = {"w": jnp.full((1, 1), 1e30)}

    def apply(params, x):
        return x @ params["w"] @ params["w"]

    with pytest.raises(ValueError, match=r"overflows float32 at 'w'\. Use float64"):
        jp.scores.synflow(apply, params, jnp.ones((1, 1)))
    with pytest.raises(ValueError, match="returns no floating array"):
        jp.scores.synflow(lambda params, x: None, params, jnp.ones((1, 1)))
    with pytest.raises(ValueError, match="weights at 'w' hold NaN"):
        jp.scores.synflow(apply, {"w": jnp.full((1, 1), jnp.nan)}, jnp.ones((1, 1)))
