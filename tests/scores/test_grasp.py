"""GraSP: sign, and the Hessian-gradient product."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


def _problem():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jax.device_put(rng.normal(size=shape).astype(np.float32))

    x, y = normal(20, 3), normal(20, 2)
    params = {"w0": normal(3, 4), "b": jnp.zeros(4), "w1": normal(4, 2), "step": jnp.int32(3)}

    def loss(params):
        h = jnp.tanh(x @ params["w0"] + params["b"][None])
        return jnp.mean(jnp.square(h @ params["w1"] - y))

    return loss, params


def every_floating(path, leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


@pytest.mark.parametrize(
    ("names", "where"),
    # Biases are constants by default, as in the authors' code.
    [(("w0", "w1"), None), (("w0", "b", "w1"), every_floating), (("w1",), lambda p, x: p == "w1")],
)
def test_product_is_that_of_the_full_hessian(names, where):
    loss, params = _problem()
    flat, unravel = jax.flatten_util.ravel_pytree({k: params[k] for k in names})

    def of_flat(flat):
        return loss(params | unravel(flat))

    want = jax.jit(lambda flat: unravel(jax.hessian(of_flat)(flat) @ jax.grad(of_flat)(flat)))(flat)
    got = jp.scores.hessian_gradient_product(loss, params, where=where)
    assert {name for name, leaf in got.items() if leaf is not None} == set(names)
    for name, leaf in want.items():
        np.testing.assert_allclose(got[name], leaf, rtol=1e-3, atol=1e-5)
    compiled = jax.jit(lambda p: jp.scores.hessian_gradient_product(loss, p, where=where))(params)
    np.testing.assert_allclose(compiled["w1"], got["w1"], rtol=1e-4, atol=1e-6)


def test_a_weight_scores_high_if_its_removal_costs_gradient():
    loss, params = _problem()
    scores = jp.scores.grasp(params, jp.scores.hessian_gradient_product(loss, params))

    @jax.jit
    def grads_of(weights):
        return jax.grad(lambda w: loss(params | w))(weights)

    def squared_norm(w0):
        grads = grads_of({"w0": w0, "w1": params["w1"]})
        return sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads.values())

    # d ||g||^2 along -w_i is -2 w_i (Hg)_i, which is minus twice the score.
    for i in np.ndindex(3, 4):
        step, moved = 1e-2, []
        for factor in (1 + step, 1 - step):
            w0 = np.array(params["w0"])
            w0[i] *= factor
            moved.append(squared_norm(w0))
        np.testing.assert_allclose(
            scores["w0"][i], (moved[0] - moved[1]) / (4 * step), rtol=2e-2, atol=2e-3
        )
    assert scores["step"] is None
    assert min(float(leaf.min()) for leaf in jax.tree.leaves(scores)) < 0
