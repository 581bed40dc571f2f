"""GraSP: sign, and the Hessian-gradient product."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


def _problem():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in [(20, 3), (20, 2)])
    params = {
        "w0": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        "b": jnp.zeros(4),
        "w1": jnp.asarray(rng.normal(size=(4, 2)), jnp.float32),
        "step": jnp.int32(3),
    }

    def loss(params):
        h = jnp.tanh(x @ params["w0"] + params["b"][None])
        return jnp.mean(jnp.square(h @ params["w1"] - y))

    return loss, params


def test_product_is_that_of_the_full_hessian():
    loss, params = _problem()
    floating = {k: v for k, v in params.items() if k != "step"}
    flat, unravel = jax.flatten_util.ravel_pytree(floating)

    def of_flat(flat):
        return loss(unravel(flat) | {"step": params["step"]})

    want = unravel(jax.jit(jax.hessian(of_flat))(flat) @ jax.grad(of_flat)(flat))
    got = jp.scores.hessian_gradient_product(loss, params)
    assert got["step"] is None
    for name, leaf in want.items():
        np.testing.assert_allclose(got[name], leaf, rtol=1e-3, atol=1e-5)
    compiled = jax.jit(lambda p: jp.scores.hessian_gradient_product(loss, p))(params)
    np.testing.assert_allclose(compiled["w0"], got["w0"], rtol=1e-4, atol=1e-6)


def test_a_weight_scores_high_if_its_removal_costs_gradient():
    loss, params = _problem()
    scores = jp.scores.grasp(params, jp.scores.hessian_gradient_product(loss, params))

    def squared_norm(params):
        floating = {k: v for k, v in params.items() if k != "step"}
        grads = jax.grad(lambda f: loss(f | {"step": params["step"]}))(floating)
        return sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads.values())

    # d ||g||^2 along -w_i is -2 w_i (Hg)_i, which is minus twice the score.
    for i in np.ndindex(3, 4):
        step = 1e-2
        moved = [
            squared_norm(params | {"w0": params["w0"].at[i].multiply(1 + s)}) for s in (step, -step)
        ]
        np.testing.assert_allclose(
            scores["w0"][i], (moved[0] - moved[1]) / (4 * step), rtol=2e-2, atol=2e-3
        )
    assert scores["step"] is None
    assert min(float(leaf.min()) for leaf in jax.tree.leaves(scores)) < 0
