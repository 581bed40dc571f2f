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


def test_both_copies_are_looked_at():
    pruned = jp.apply_mask(PARAMS, MASK)
    jp.assert_sparse(optax.LookaheadParams(fast=pruned, slow=pruned), MASK)
    with pytest.raises(ValueError, match=r"24 of the 24 pruned weights of 'slow/a/kernel'"):
        jp.assert_sparse(optax.LookaheadParams(fast=pruned, slow=PARAMS), MASK)


def test_lookahead_does_not_complain_of_a_pair_that_is_there(caplog):
    tx = MAKERS["gmp"](optax.lookahead(optax.adam(0.1), 4, 0.5))
    jax.eval_shape(tx.update, grads_at(PARAMS), tx.init(pair()), pair())
    assert not [record for record in caplog.records if "no attribute" in record.getMessage()]


def gmp_then(*others):
    return optax.chain(MAKERS["gmp"](SGD), *others)


# Whole optimizers: those that bring pruned weights to zero, and what becomes of them in the others.
RIGHT = {
    "outermost": MAKERS["gmp"](SGD),
    "last of a chain": optax.chain(optax.clip(1.0), MAKERS["rigl"](SGD)),
    "before what changes nothing": gmp_then(optax.identity()),
    "before NaN are zeroed": gmp_then(optax.zero_nans()),
    "soft": optax.chain(MAKERS["soft"](optax.adamw(0.1)), optax.identity()),
    "every fourth call": optax.MultiSteps(MAKERS["fixed_mask"](SGD), 4),
    "finite ones": optax.apply_if_finite(MAKERS["gmp"](SGD), 3),
    "kept at zero": transforms.keep_zeros(gmp_then(optax.scale(0.5))),
    "averaged": transforms.averaged(MAKERS["gmp"](SGD)),
    "zeros at the end": optax.chain(optax.adam(0.1), transforms.zero_updates(MASK)),
}
WRONG = {
    "scaled": gmp_then(optax.scale(0.5)),
    "with a rate behind": gmp_then(optax.scale_by_learning_rate(0.1)),
    "with decay behind": gmp_then(optax.add_decayed_weights(0.1)),
    "clipped": gmp_then(optax.clip_by_global_norm(1.0)),
    "averaged inside": transforms.averaged(gmp_then(optax.ema(0.9))),
    "of the soft kind": optax.chain(MAKERS["soft"](SGD), optax.scale(0.5)),
    "a mask that stays, scaled": optax.chain(MAKERS["fixed_mask"](SGD), optax.scale(0.5)),
    "noise, and a mask that stays": optax.chain(
        MAKERS["fixed_mask"](SGD), optax.add_noise(0.1, 0.5, jax.random.key(0))
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_positions_that_keep_zeros_pass(name):
    transforms.check_position(RIGHT[name], PARAMS)


@pytest.mark.parametrize("name", WRONG)
def test_positions_that_do_not_are_refused(name):
    with pytest.raises(
        ValueError, match=r"weights of 'a/kernel' do not arrive at zero: from 3 one"
    ):
        transforms.check_position(WRONG[name], PARAMS)


def test_where_parameters_have_a_mask_that_stays():
    pruned = jp.apply_mask(PARAMS, MASK)
    transforms.check_position(WRONG["a mask that stays, scaled"], pruned)
    with pytest.raises(ValueError, match="from 0 one came to"):
        transforms.check_position(WRONG["noise, and a mask that stays"], pruned)


def test_positions_of_lookahead():
    inside = optax.lookahead(MAKERS["gmp"](SGD), 4, 0.5)
    with pytest.raises(ValueError, match=r"'fast/a/kernel' do not arrive.*3 one came to 1\.5"):
        transforms.check_position(inside, pair())
    transforms.check_position(transforms.keep_zeros(inside), pair())
    transforms.check_position(MAKERS["gmp"](optax.lookahead(SGD, 4, 0.5)), pair())
    with pytest.raises(ValueError, match="there is no mask"):
        transforms.check_position(SGD, PARAMS)
    with pytest.raises(TypeError, match="outside of compiled functions"):
        jax.jit(lambda p: transforms.check_position(inside, p))(pair())


def test_a_run_with_such_an_optimizer_does_not_begin():
    def wrong(learning_rate):
        return optax.chain(
            transforms.gmp(optax.scale_by_adam(), 0.5, total_steps=12, interval=2),
            optax.scale_by_learning_rate(learning_rate),
        )

    with pytest.raises(ValueError, match=r"'a/kernel' do not arrive at zero.*keep_zeros"):
        jp.training.TrainState.create(PARAMS, wrong, key=jax.random.key(0))
    jp.training.TrainState.create(
        PARAMS, lambda lr: transforms.keep_zeros(wrong(lr)), key=jax.random.key(0)
    )


def by_hand(tx, steps, params=PARAMS):
    state = tx.init(params)
    for _ in range(steps):
        network = params.fast if isinstance(params, optax.LookaheadParams) else params
        updates, state = tx.update(grads_at(network), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", ["fixed_mask", "gmp"])
def test_outside_of_jit_a_step_warns_of_weights_that_came_back(name):
    by_hand(MAKERS[name](SGD), 5)
    halved = optax.chain(MAKERS[name](SGD), optax.scale(0.5))
    with pytest.warns(UserWarning, match=rf"{name} set the pruned weights of 'a/kernel' to zero"):
        by_hand(halved, 5)
    ahead = optax.lookahead(MAKERS[name](SGD), 2, 0.5)
    with pytest.warns(UserWarning, match=r"optax\.lookahead around it"):
        by_hand(ahead, 5, pair())


def test_a_new_mask_or_a_new_start_is_no_reason_to_warn():
    tx = MAKERS["fixed_mask"](SGD)
    params, state = by_hand(tx, 2)
    other = jax.tree.map(lambda m: ~m, MASK)
    _, state = tx.update(grads_at(params), transforms.set_mask(state, other), params)
    by_hand(tx, 2)
    jax.jit(tx.update)(grads_at(params), state, PARAMS)


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
    with pytest.warns(UserWarning, match=r"MultiSteps stands around .*one call in k"):
        transforms.check_position(tx, PARAMS)
    tx = transforms.gmp(optax.MultiSteps(SGD, 4), 0.8, total_steps=12, interval=2)
    transforms.check_position(tx, PARAMS)
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
