"""Taylor: first-order change of the loss."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


def test_by_hand():
    params, grads = {"w": jnp.array([[-2.0, 1.0, 0.0]])}, {"w": jnp.array([[0.5, 3.0, 9.0]])}
    assert jp.scores.taylor(params, grads)["w"].tolist() == [[1, 3, 0]]
    assert jp.scores.taylor(params, grads, squared=True)["w"].tolist() == [[1, 9, 0]]


def test_is_the_change_of_a_linear_loss():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(4, 1)), jnp.float32)}

    def loss(params):
        return jnp.sum(x @ params["w"])

    scores = jp.scores.taylor(params, jax.grad(loss)(params))["w"]
    for i in range(4):
        removed = {"w": params["w"].at[i].set(0.0)}
        np.testing.assert_allclose(scores[i, 0], abs(loss(params) - loss(removed)), rtol=1e-4)
