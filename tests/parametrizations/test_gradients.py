"""Gradients, against cases worked out by hand from the papers' rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import parametrizations
from tests.parametrizations import cases

# The gradient that arrives at the effective weights.
G = jnp.array([[1.0, -2.0, 4.0, 8.0]])


def pulled(p, trainable, state):
    """The gradient of ``sum(G * w_hat) + penalty``."""

    def loss(trainable):
        params, _ = p.apply(trainable, state)
        return jnp.sum(G.astype(params["w"].dtype) * params["w"]).astype(jnp.float32) + p.penalty(
            trainable, state
        )

    return cases.quick(jax.grad(loss))(trainable)


def start(p, values, dtype=jnp.float32):
    return p.init({"w": jnp.asarray([values], dtype)})


def test_masked_forward_and_both_gradients():
    w = jnp.array([[3.0, jnp.nan, -jnp.inf, 5.0]])
    mask = jnp.array([[True, False, False, True]])
    out = parametrizations.masked({"w": w}, {"w": mask})["w"]
    assert out.tolist() == [[3.0, 0.0, 0.0, 5.0]]
    assert not np.signbit(out).any()

    def loss(w, backward):
        return jnp.sum(G * parametrizations.masked(w, mask, backward=backward))

    assert jax.grad(loss)(w, "dense").tolist() == G.tolist()
    assert jax.grad(loss)(w, "masked").tolist() == [[1.0, 0.0, 0.0, 8.0]]


def test_masked_differentiates_forward_and_twice():
    mask = jnp.array([True, False])

    def loss(w):
        return jnp.sum(parametrizations.masked(w, mask) ** 3)

    w, v = jnp.array([2.0, 7.0]), jnp.array([1.0, 10.0])
    # Straight through: the gradient 3 w_hat^2 passes as if w_hat were w, so the second derivative
    # is 6 w_hat.
    np.testing.assert_allclose(jax.jvp(jax.grad(loss), (w,), (v,)), ([12.0, 0.0], [12.0, 0.0]))


def test_masked_is_vmapped_and_leaves_the_rest_alone():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones((3, 2))}
    mask = {"kernel": jnp.array([[True, False]] * 3), "bias": None}
    out = jax.vmap(parametrizations.masked)(params, mask)
    assert out["kernel"].tolist() == [[1.0, 0.0]] * 3
    assert out["bias"].tolist() == [[1.0, 1.0]] * 3


def test_dnw_gives_the_gradient_of_the_sparse_network_to_all_weights():
    p = parametrizations.dnw(0.5)
    trainable, state = start(p, [3.0, -0.5, 0.25, -2.0])
    assert p.apply(trainable, state)[0]["w"].tolist() == [[3.0, 0.0, 0.0, -2.0]]
    assert pulled(p, trainable, state)["w"].tolist() == G.tolist()


@pytest.mark.parametrize("name", ["dpf", "gmp_recover"])
def test_gradual_gradients(name):
    p = getattr(parametrizations, name)(0.5, total_steps=4, interval=2)
    trainable, state = start(p, [3.0, -0.5, 0.25, -2.0])
    assert pulled(p, trainable, state)["w"].tolist() == G.tolist()  # dense before the first target
    state = state._replace(step=jnp.asarray(2, jnp.int32))
    assert p.apply(trainable, state)[0]["w"].tolist() == [[3.0, 0.0, 0.0, -2.0]]
    wanted = G.tolist() if name == "dpf" else [[1.0, 0.0, 0.0, 8.0]]
    assert pulled(p, trainable, state)["w"].tolist() == wanted


def test_sr_ste_adds_the_decay_of_pruned_weights():
    p = parametrizations.sr_ste(jp.masks.nm(1, 2, axis=1), decay=0.5)
    trainable, state = start(p, [3.0, -0.5, 1.0, -2.0])
    assert p.apply(trainable, state)[0]["w"].tolist() == [[3.0, 0.0, 0.0, -2.0]]
    # g + decay (1 - m) w
    assert pulled(p, trainable, state)["w"].tolist() == [[1.0, -2.0 - 0.25, 4.0 + 0.5, 8.0]]
    assert float(p.penalty(trainable, state)) == 0.25 * (0.25 + 1.0)


def test_sr_ste_in_bfloat16():
    p = parametrizations.sr_ste(jp.masks.nm(1, 2, axis=1), decay=0.5)
    trainable, state = start(p, [3.0, -0.5, 1.0, -2.0], jnp.bfloat16)
    grads = pulled(p, trainable, state)["w"]
    assert grads.dtype == jnp.bfloat16
    assert grads.tolist() == [[1.0, -2.25, 4.5, 8.0]]


def test_str_gradients():
    p = parametrizations.str_(initial=0.0)  # threshold 1/2, sigmoid' 1/4
    trainable, state = start(p, [3.0, -0.5, 0.25, -2.0])
    assert p.apply(trainable, state)[0]["w"].tolist() == [[2.5, 0.0, 0.0, -1.5]]
    grads = pulled(p, trainable, state)
    assert grads.params["w"].tolist() == [[1.0, 0.0, 0.0, 8.0]]
    # -sum(g sign(w) 1[kept]) / 4
    assert float(grads.thresholds["w"]) == -(1.0 - 8.0) / 4


def test_str_with_another_threshold_function():
    p = parametrizations.str_(initial=0.0, threshold=jnp.exp)  # threshold 1, derivative 1
    trainable, state = start(p, [3.0, -0.5, 0.25, -2.0])
    assert p.apply(trainable, state)[0]["w"].tolist() == [[2.0, 0.0, 0.0, -1.0]]
    assert float(pulled(p, trainable, state).thresholds["w"]) == 7.0


def test_str_far_below_zero_is_dense_and_finite():
    p = parametrizations.str_(initial=-3200.0)
    trainable, state = start(p, [3.0, -0.5, 0.25, -2.0])
    assert p.apply(trainable, state)[0]["w"].tolist() == trainable.params["w"].tolist()
    assert float(pulled(p, trainable, state).thresholds["w"]) == 0.0


def test_cs_gradients():
    lam, decay = 0.5, 0.125
    p = parametrizations.cs(total_steps=2, final_temperature=16.0, penalty=lam, weight_decay=decay)
    trainable, state = start(p, [3.0, -0.5, 0.25, -2.0])
    # In the first step w_hat = w: the gates are sigmoid(0) / sigmoid(0).
    assert p.apply(trainable, state)[0]["w"].tolist() == trainable.params["w"].tolist()
    grads = pulled(p, trainable, state)
    w = np.asarray(trainable.params["w"])
    np.testing.assert_allclose(grads.params["w"], G + decay * w)
    # d w_hat / dm = beta w sigmoid' / sigmoid(0) = w / 2 at beta = 1; the penalty's is lam / 4.
    np.testing.assert_allclose(grads.gates["w"], np.asarray(G) * w / 2 + lam / 4)
    assert float(p.penalty(trainable, state)) == lam * 2 + decay / 2 * float((w**2).sum())
    # One of two steps later beta is 4.
    _, state = p.apply(trainable, state)
    grads = pulled(p, trainable, state)
    np.testing.assert_allclose(grads.gates["w"], 4 * (np.asarray(G) * w / 2 + lam / 4), rtol=1e-6)


def test_dst_gradients():
    alpha, decay = 0.5, 0.125
    p = parametrizations.dst(alpha, weight_decay=decay, reset_at=0.0)
    values, thresholds = [3.0, -0.75, 0.5, -1.5], [1.0, 1.0, 0.25, 1.0]
    trainable, state = start(p, values)
    trainable = trainable._replace(thresholds={"w": jnp.asarray(thresholds)})
    # |w| - t = 2, -0.25, 0.25, 0.5
    assert p.apply(trainable, state)[0]["w"].tolist() == [[3.0, 0.0, 0.5, -1.5]]
    slope = np.array([0.0, 2 - 4 * 0.25, 2 - 4 * 0.25, 0.4])
    kept = np.array([1.0, 0.0, 1.0, 1.0])
    w, g, t = np.array(values), np.asarray(G)[0], np.array(thresholds)
    grads = pulled(p, trainable, state)
    wanted = g * (kept + w * slope * np.sign(w)) + decay * w
    np.testing.assert_allclose(grads.params["w"][0], wanted, rtol=1e-6)
    assert grads.params["w"][0, 1] != decay * w[1]  # a pruned weight feels its mask
    np.testing.assert_allclose(
        grads.thresholds["w"], -g * w * slope - alpha * np.exp(-t), rtol=1e-6
    )
    np.testing.assert_allclose(
        p.penalty(trainable, state), alpha * np.exp(-t).sum() + decay / 2 * (w**2).sum(), rtol=1e-6
    )


def test_dst_derivative_at_its_corners():
    p = parametrizations.dst(0.0, reset_at=0.0)
    sizes = [0.4, 0.400001, 1.0, 1.000001]
    trainable, state = start(p, sizes)
    slope = np.asarray(pulled(p, trainable, state).thresholds["w"]) / -(np.asarray(G)[0] * sizes)
    np.testing.assert_allclose(slope, [0.4, 0.4, 0.4, 0.0], atol=1e-5)


def test_dst_sums_the_gradient_of_a_threshold_over_its_unit():
    p = parametrizations.dst(0.0, reset_at=0.0)
    w, g = jnp.array([[0.25, 2.0], [-0.25, 0.5]]), jnp.array([[1.0, 2.0], [4.0, 8.0]])
    trainable, state = p.init({"w": w})
    grads = cases.quick(jax.grad(lambda t: jnp.sum(g * p.apply(t, state)[0]["w"])))(trainable)
    # -(1 * 0.25 * 1 + 4 * -0.25 * 1), -(2 * 2 * 0 + 8 * 0.5 * 0.4)
    np.testing.assert_allclose(grads.thresholds["w"], [0.75, -1.6], rtol=1e-6)
