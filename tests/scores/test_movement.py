"""Movement: accumulated over steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp


def test_inside_a_compiled_training_step():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)

    def loss(params):
        return jnp.mean(jnp.square(x @ params["w"] + params["b"] - 1))

    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 1)), jnp.float32)}
    params["b"] = jnp.zeros((1, 1))
    tx = optax.sgd(0.1)

    @jax.jit
    def step(params, opt_state, scores):
        grads = jax.grad(loss)(params)
        scores = jp.scores.movement(params, grads, previous=scores, rate=jnp.float32(0.5))
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, scores

    scores = jax.tree.map(jnp.zeros_like, jp.scores.magnitude(params))
    opt_state, want, grad = tx.init(params), 0, jax.jit(jax.grad(loss))
    for _ in range(4):
        want = want - 0.5 * np.asarray(params["w"]) * np.asarray(grad(params)["w"])
        params, opt_state, scores = step(params, opt_state, scores)
    np.testing.assert_allclose(scores["w"], want, rtol=1e-5)
    assert scores["b"] is None


def test_sign_is_that_of_growing_weights():
    # A gradient step moves the first weight away from zero, and the second towards it.
    params, grads = {"w": jnp.array([[1.0, 1.0]])}, {"w": jnp.array([[-1.0, 1.0]])}
    assert jp.scores.movement(params, grads)["w"].tolist() == [[1, -1]]
    with pytest.raises(ValueError, match=r"previous scores has shape \(1, 1\) at 'w'"):
        jp.scores.movement(params, grads, previous={"w": jnp.ones((1, 1))})
    with pytest.raises(ValueError, match="previous scores have nothing for the prunable leaf 'w'"):
        jp.scores.movement(params, grads, previous={"w": None})


def test_previous_scores_that_are_low_in_precision_are_widened():
    params = {"w": jnp.ones((1, 1), jnp.bfloat16)}
    grads = {"w": jnp.full((1, 1), -(2.0**-10), jnp.bfloat16)}
    scores = {"w": jnp.ones((1, 1), jnp.bfloat16)}
    scores = jp.scores.movement(params, grads, previous=scores)
    assert scores["w"].tolist() == [[1 + 2.0**-10]]
