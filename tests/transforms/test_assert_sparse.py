"""Whether pruned weights are zero can be asked of parameters and of their copies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import transforms

PARAMS = {"a": {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}, "b": {"bias": jnp.ones(2)}}


def trained(tx, steps=3):
    params, state = PARAMS, tx.init(PARAMS)
    average = PARAMS
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 0.5)
    return params, average, state


def test_outermost_is_sparse_and_an_average_is_not():
    _, mask = jp.prune(PARAMS, 0.5)
    params, average, state = trained(transforms.fixed_mask(optax.sgd(0.1), mask))
    jp.assert_sparse(params, state)
    jp.assert_sparse(params, mask)
    with pytest.raises(ValueError, match=r"4 of the 4 pruned weights of 'a/kernel' are not zero"):
        jp.assert_sparse(average, state)
    jp.assert_sparse(jp.apply_mask(average, mask), state)


def test_an_average_that_goes_on_after_a_prune_is_sparse_where_the_mask_is_applied_to_it():
    tx = transforms.gmp(optax.sgd(0.1), sparsity=0.5, total_steps=6, interval=2)
    params, state, own, plain = PARAMS, tx.init(PARAMS), PARAMS, PARAMS
    for _ in range(8):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
        plain = optax.incremental_update(params, plain, 0.1)
        own = optax.incremental_update(params, own, 0.1)
        own = jp.apply_mask(own, transforms.get_mask(state))
        jp.assert_sparse(own, state)
    mask = transforms.get_mask(state)
    assert jp.sparsity(mask) == 0.5
    with pytest.raises(ValueError, match="4 of the 4 pruned weights of 'a/kernel' are not zero"):
        jp.assert_sparse(plain, state)
    # Of weights that are never pruned the two are one average.
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(jp.apply_mask(plain, mask)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_updates_that_are_scaled_afterwards_are_found():
    _, mask = jp.prune(PARAMS, 0.5)
    tx = optax.chain(transforms.fixed_mask(optax.sgd(0.1), mask), optax.scale(0.5))
    with pytest.warns(UserWarning, match="fixed_mask set the pruned weights of 'a/kernel' to zero"):
        params, _, state = trained(tx)
    with pytest.raises(ValueError, match="behind nothing that changes its updates"):
        jp.assert_sparse(params, state)


def test_no_mask_another_tree_and_traced():
    with pytest.raises(ValueError, match="mask"):
        jp.assert_sparse(PARAMS, optax.sgd(0.1, 0.9).init(PARAMS))
    with pytest.raises(ValueError, match="another tree"):
        jp.assert_sparse(PARAMS, {"c": jnp.ones((2, 4), bool)})
    with pytest.raises(TypeError, match="outside of compiled functions"):
        jax.jit(lambda p: jp.assert_sparse(p, {"a": {"kernel": None}}))(PARAMS)


@pytest.mark.parametrize(
    "make",
    [
        lambda **rules: transforms.gmp(optax.sgd(0.1), 0.75, total_steps=2, interval=1, **rules),
        lambda **rules: transforms.prune_at(optax.sgd(0.1), (1, 2), (0.5, 0.75), **rules),
        lambda **rules: transforms.one_shot(optax.sgd(0.1), 0.75, step=2, **rules),
    ],
)
def test_layers_stacked_in_a_leaf(make):
    scale = jnp.asarray([1.0, 1.0, 0.001])[:, None, None]  # one layer is small
    params = {"layers": {"kernel": jax.random.normal(jax.random.key(0), (3, 4, 4)) * scale}}
    tx = make(allocation=jp.masks.uniform(), stacked={"layers/.*": 0})
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = optax.apply_updates(params, updates)
    mask = transforms.get_mask(state)["layers"]["kernel"]
    assert mask.sum(axis=(1, 2)).tolist() == [4, 4, 4]
    jp.assert_sparse(params, state)
