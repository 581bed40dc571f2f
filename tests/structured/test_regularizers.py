"""Penalties of channels against NumPy, finite differences, and what they do in training."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.structured.checks import normal

st = jp.structured
X = normal(5, 3)


def apply(params, x):
    hidden = jnp.tanh((x @ params["a"]["kernel"]) * params["norm"]["scale"][None])
    return hidden @ params["b"]["kernel"]


PARAMS = {
    "a": {"kernel": normal(3, 4, seed=2)},
    "norm": {"scale": normal(4, seed=3)},
    "b": {"kernel": normal(4, 2, seed=4)},
}
GROUPS = st.channel_groups(apply, PARAMS, X)


def norms():
    a, b = (np.asarray(PARAMS[k]["kernel"], np.float64) for k in "ab")
    return np.sqrt((a**2).sum(0) + (b**2).sum(1))


def test_values_by_numpy():
    n = norms()
    np.testing.assert_allclose(st.group_lasso(GROUPS, PARAMS), np.sqrt(5) * n.sum(), rtol=1e-6)
    gamma = 2 ** (4 * (n.max() - n) / (n.max() - n.min()))
    decay = 0.5 * (gamma * n**2).sum()
    np.testing.assert_allclose(st.group_decay(GROUPS, PARAMS), decay, rtol=1e-5)
    kept = [np.array([True, False, True, False])]
    removed = 0.5 * (n[[1, 3]] ** 2).sum()
    np.testing.assert_allclose(st.removed_decay(GROUPS, PARAMS, kept), removed, rtol=1e-6)
    scales = np.abs(PARAMS["norm"]["scale"]).sum()
    np.testing.assert_allclose(st.scale_l1(GROUPS, PARAMS), scales, rtol=1e-6)


def test_gradients():
    jax.test_util.check_grads(lambda p: st.group_lasso(GROUPS, p), (PARAMS,), 1, modes=["rev"])
    n = norms()
    gamma = 2 ** (4 * (n.max() - n) / (n.max() - n.min()))
    slopes = jax.grad(lambda p: st.group_decay(GROUPS, p))(PARAMS)
    np.testing.assert_allclose(
        slopes["a"]["kernel"], PARAMS["a"]["kernel"] * np.float32(gamma)[None], rtol=1e-4
    )
    assert not np.any(slopes["norm"]["scale"])
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for leaf in jax.tree.leaves(jax.grad(lambda p: st.group_lasso(GROUPS, p))(zeros)):
        assert not np.any(leaf)


def test_parameters_alone_of_grouped_variables():
    variables = {"params": PARAMS, "state": {"n": jnp.zeros(())}}
    groups = st.channel_groups(lambda v, x: apply(v["params"], x), variables, X)
    whole = st.group_lasso(groups, variables)
    np.testing.assert_array_equal(st.group_lasso(groups, PARAMS), whole)
    np.testing.assert_array_equal(st.scale_l1(groups, PARAMS), st.scale_l1(groups, variables))


def test_growing_decay_ends_near_zero_where_channels_go():
    kept = [np.array([True, False, True, False])]
    transform = optax.chain(
        st.add_penalty(
            lambda p: st.removed_decay(GROUPS, p, kept), lambda t: jnp.minimum(0.1 * t, 1.0)
        ),
        optax.sgd(0.3),
    )

    @jax.jit
    def step(params, state):
        target = apply(PARAMS, X)
        grads = jax.grad(lambda p: jnp.mean((apply(p, X) - target) ** 2))(params)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, transform.init(PARAMS)
    for _ in range(60):
        params, state = step(params, state)
    sizes = np.abs(params["a"]["kernel"]).sum(0)
    assert sizes[[1, 3]].max() < 0.05 * sizes[[0, 2]].min()
    assert step._cache_size() == 1
    # Nearly nothing is lost when they go.
    masks = st.masks(GROUPS, kept)
    np.testing.assert_allclose(apply(jp.apply_mask(params, masks), X), apply(params, X), atol=1e-2)


def test_dtypes_stay():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    transform = st.add_penalty(lambda p: st.group_lasso(GROUPS, p), 0.1)
    updates, _ = transform.update(
        jax.tree.map(jnp.zeros_like, params), transform.init(params), params
    )
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


def test_errors():
    with pytest.raises(ValueError, match="'a/kernel' is not in the parameters"):
        st.group_lasso(GROUPS, {"b": PARAMS["b"]})
    with pytest.raises(ValueError, match="and had"):
        st.group_lasso(GROUPS, {**PARAMS, "a": {"kernel": jnp.ones((3, 5))}})
    with pytest.raises(ValueError, match="called 'gamma'"):
        st.scale_l1(GROUPS, PARAMS, name="gamma")
    with pytest.raises(TypeError, match="function of the parameters"):
        st.add_penalty(3.0, 0.1)
    transform = st.add_penalty(lambda p: 0.0, 0.1)
    with pytest.raises(ValueError, match="needs the parameters"):
        transform.update(PARAMS, transform.init(PARAMS))
