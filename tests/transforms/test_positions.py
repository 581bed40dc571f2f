"""Where a transform stands: lookahead in both orders, chains behind it, averages, MultiSteps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import transforms

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax mixes dtypes


@pytest.fixture
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


PARAMS = {
    "a": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.float32)},
    "b": {"bias": jnp.ones(3)},
}
MASK = jp.prune(PARAMS, 0.5)[1]
SGD = optax.sgd(0.05, momentum=0.9)
MAKERS = {
    "fixed_mask": lambda tx: transforms.fixed_mask(tx, MASK),
    "gmp": lambda tx: transforms.gmp(tx, 0.5, total_steps=12, interval=2),
    "rigl": lambda tx: transforms.rigl(tx, 0.5, key=jax.random.key(0), total_steps=12, interval=3),
    "ac_dc": lambda tx: transforms.ac_dc(
        tx, 0.5, total_steps=12, warmup_steps=1, compressed_steps=2, final_steps=3
    ),
    "soft": lambda tx: transforms.soft(
        tx, 0.5, every=3, total_steps=12, where=jp.default_where, pattern=jp.masks.channels(-1)
    ),
}


def grads_at(params):
    return jax.tree.map(lambda w: jnp.sin(3 * w) + 0.1, params)


def trained(tx, params=PARAMS, steps=12):
    @jax.jit
    def step(params, state):
        network = params.fast if isinstance(params, optax.LookaheadParams) else params
        updates, state = tx.update(grads_at(network), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def pair():
    return optax.LookaheadParams.init_synced(PARAMS)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("order", ["outside", "inside"])
def test_both_copies_of_lookahead_are_sparse(name, order):
    if order == "outside":
        tx = MAKERS[name](optax.lookahead(SGD, 4, 0.5))
    else:
        tx = transforms.keep_zeros(optax.lookahead(MAKERS[name](SGD), 4, 0.5))
    params, state = trained(tx, pair())
    for copy in params:
        jp.assert_sparse(copy, state, sparsity=0.5)
    jp.assert_sparse(params, state)
    assert jp.sparsity(transforms.get_mask(state)) == 0.5


def test_lookahead_inside_moves_kept_weights_as_without_a_mask():
    # Each weight for itself: what a mask removes changes nothing for the others.
    dense, _ = trained(optax.lookahead(SGD, 4, 0.5), pair())
    sparse, _ = trained(MAKERS["fixed_mask"](optax.lookahead(SGD, 4, 0.5)), pair())
    kept = np.asarray(MASK["a"]["kernel"])
    for one, other in zip(dense, sparse, strict=True):
        np.testing.assert_allclose(one["a"]["kernel"][kept], other["a"]["kernel"][kept], rtol=1e-5)
        np.testing.assert_allclose(one["b"]["bias"], other["b"]["bias"], rtol=1e-6)


def test_a_scale_behind_it():
    tx = optax.chain(MAKERS["fixed_mask"](SGD), optax.scale(0.5))
    params, state = trained(tx)
    with pytest.raises(ValueError, match="are not zero"):
        jp.assert_sparse(params, state)
    params, state = trained(transforms.keep_zeros(tx))
    jp.assert_sparse(params, state, sparsity=0.5)
    with pytest.raises(ValueError, match="there is no mask in this optimizer state"):
        transforms.keep_zeros(SGD).init(PARAMS)


@pytest.mark.parametrize("name", MAKERS)
def test_an_average_is_as_sparse_as_the_weights(name):
    decay, steps = 0.8, 12
    params, state = trained(transforms.averaged(MAKERS[name](SGD), decay), steps=steps)
    jp.assert_sparse(params, state)
    average = transforms.get_average(state)
    jp.assert_sparse(average, state)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(average))
    # Of weights that nothing ever prunes it is optax' own.
    own, path = jax.tree.map(jnp.zeros_like, PARAMS), PARAMS
    tx = MAKERS[name](SGD)
    inner = tx.init(PARAMS)
    for _ in range(steps):
        updates, inner = tx.update(grads_at(path), inner, path)
        path = optax.apply_updates(path, updates)
        own = optax.incremental_update(path, own, 1 - decay)
    np.testing.assert_allclose(
        average["b"]["bias"], own["b"]["bias"] / (1 - decay**steps), rtol=1e-5
    )


def test_averages_of_other_kinds():
    tx = transforms.averaged(MAKERS["fixed_mask"](optax.lookahead(SGD, 4, 0.5)), 0.9)
    _, state = trained(tx, pair())
    jp.assert_sparse(transforms.get_average(state), state)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    _, state = trained(transforms.averaged(optax.sgd(0.01), 0.999), half)
    assert {x.dtype for x in jax.tree.leaves(transforms.get_average(state))} == {
        np.dtype("float32")
    }
    with pytest.raises(ValueError, match=r"decay is 1\.0"):
        transforms.averaged(SGD, 1.0)
    with pytest.raises(ValueError, match="there are 0 averages"):
        transforms.get_average(SGD.init(PARAMS))


def test_a_schedule_that_multisteps_cut_short_is_named():
    tx = optax.MultiSteps(transforms.gmp(SGD, 0.8, total_steps=12, interval=2), 4)
    params, state = trained(tx)
    with pytest.raises(ValueError, match=r"3 steps have been taken.*inside optax\.MultiSteps"):
        jp.assert_sparse(params, state, sparsity=0.8)
    tx = transforms.gmp(optax.MultiSteps(SGD, 4), 0.8, total_steps=12, interval=2)
    params, state = trained(tx)
    jp.assert_sparse(params, state, sparsity=0.8)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_of_single_examples_are_named(name):
    tx = MAKERS[name](SGD)
    grads = jax.tree.map(lambda w: jnp.ones((5, *w.shape)), PARAMS)
    with pytest.raises(
        ValueError, match=r"shape \(5, 6, 8\) for 'a/kernel'.*one gradient an example"
    ):
        tx.update(grads, tx.init(PARAMS), PARAMS)
    private = optax.chain(
        optax.contrib.differentially_private_aggregate(1.0, 0.1, 0), MAKERS[name](SGD)
    )
    updates, state = private.update(grads, private.init(PARAMS), PARAMS)
    if name == "fixed_mask":
        jp.assert_sparse(optax.apply_updates(PARAMS, updates), state)
    with pytest.raises(ValueError, match="Take the gradients at these very parameters"):
        tx.update(jax.tree.map(lambda w: w[:2], PARAMS), tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("masked", [False, True])
def test_learning_to_learn_through_adam(masked):
    """Where a gradient is zero, as behind a dead unit, Adam needs ``eps_root``, masked or not."""

    def through(scale, eps_root):
        tx = optax.adam(0.1, eps_root=eps_root)
        tx = transforms.fixed_mask(tx, MASK) if masked else tx
        grads = jax.tree.map(lambda g: scale * g, grads_at(PARAMS))
        grads["b"]["bias"] = scale * jnp.zeros(3)
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(optax.apply_updates(PARAMS, updates)))

    assert jnp.isnan(jax.grad(through)(1.0, 0.0))
    assert jnp.isfinite(jax.grad(through)(1.0, 1e-8))
