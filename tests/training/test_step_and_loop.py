"""States, steps and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training import problem

RATES = np.linspace(0.2, 0.0, 23, dtype=np.float32)


def half_mask():
    return jp.prune(problem.params(), 0.5)[1]


def assert_trees_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_step_equals_the_loop_written_by_hand():
    mask = half_mask()
    state, step = problem.state(mask=mask), problem.step()
    params, tx = jp.apply_mask(problem.params(), mask), problem.sgd(0.1)
    opt_state = tx.init(params)

    @jax.jit
    def by_hand(params, opt_state, batch):
        (loss, _), grads = jax.value_and_grad(problem.loss_fn, has_aux=True)(
            params, None, batch, None
        )
        updates, opt_state = tx.update(jp.apply_mask(grads, mask), opt_state, params)
        return jp.apply_mask(optax.apply_updates(params, updates), mask), opt_state, loss

    for t in range(5):
        state, metrics = step(state, problem.batch_at(t), 0.1)
        params, opt_state, loss = by_hand(params, opt_state, problem.batch_at(t))
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert jp.sparsity(jax.tree.map(lambda p: p != 0, state.params["first"]["kernel"])) > 0.3
    assert int(state.step) == 5


def test_creating_a_state_copies_and_masks():
    params, mask = problem.params(), half_mask()
    state = jp.training.TrainState.create(params, problem.sgd, mask=mask, key=jax.random.key(0))
    problem.loop()(state, RATES[:2])  # donates the state
    assert float(params["first"]["kernel"][0, 0]) == float(
        problem.params()["first"]["kernel"][0, 0]
    )
    assert jp.sparsity(mask) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("compiled", "chunk"),
    [
        (True, 4),
        *(pytest.param(True, chunk, marks=pytest.mark.slow) for chunk in (1, 23, 50)),
        *((False, chunk) for chunk in (1, 4, 23, 50)),
    ],
)
def test_loops_agree_whatever_the_chunk(compiled, chunk):
    expected, reference = problem.loop(chunk_steps=7)(problem.state(), RATES)
    state, metrics = problem.loop(compile_chunks=compiled, chunk_steps=chunk)(
        problem.state(), RATES
    )
    assert metrics["loss"].shape == (23,)
    np.testing.assert_allclose(metrics["loss"], reference["loss"], rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_remainders_phases_and_masks_do_not_recompile(compiled):
    # A loop of its own: what others compile does not count.
    train = jp.training.make_loop(
        problem.step(), problem.batch_at, compile_chunks=compiled, chunk_steps=10
    )
    state = problem.state()
    for rates in (RATES, RATES[:10], RATES[:3], RATES[:1]):
        state, _ = train(state, rates)
    state = state._replace(opt_state=jp.transforms.set_mask(state.opt_state, half_mask()))
    state, _ = train(state, RATES)
    # Compiled chunks: one program for whole chunks, one for what is left over.
    assert train.compiled._cache_size() == 1 + compiled


def test_training_in_parts_equals_training_in_full():
    train = problem.loop()
    whole, _ = train(problem.state(), RATES)
    parts = problem.state()
    for piece in (RATES[:5], RATES[5:6], RATES[6:]):
        parts, _ = train(parts, piece)
    assert_trees_equal(whole.params, parts.params)
    assert int(whole.step) == int(parts.step) == 23


def test_chunks_are_reported_in_order():
    seen = []
    train = problem.loop(
        chunk_steps=7, on_chunk=lambda first, rates, metrics: seen.append((first, rates, metrics))
    )
    _, metrics = train(problem.state(), RATES)
    assert [first for first, _, _ in seen] == [0, 7, 14, 21]
    np.testing.assert_array_equal(np.concatenate([rates for _, rates, _ in seen]), RATES)
    losses = np.concatenate([m["loss"] for _, _, m in seen])
    np.testing.assert_array_equal(losses, metrics["loss"])


def test_no_steps_change_nothing():
    state, metrics = problem.loop()(problem.state(), np.zeros((0,)))
    assert metrics == {}
    assert_trees_equal(state.params, problem.state().params)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_plain_batch_function_works_too(compiled):
    options = {"compile_chunks": compiled, "chunk_steps": 4}
    train = jp.training.make_loop(problem.step(), lambda t: problem.batch_at(t), **options)
    state, _ = train(problem.state(), RATES[:6])
    expected, _ = problem.loop(**options)(problem.state(), RATES[:6])
    assert_trees_equal(state.params, expected.params)


def test_the_key_depends_on_run_and_step_only():
    def loss_fn(params, model_state, batch, key):
        loss, (model_state, _) = problem.loss_fn(params, model_state, batch, key)
        return loss, (model_state, {"draw": jax.random.uniform(key)})

    train = jp.training.make_loop(
        jp.training.make_train_step(loss_fn, problem.sgd), problem.batch_at
    )
    state, first = train(problem.state(), RATES[:4])
    _, second = train(state, RATES[:4])
    draws = np.concatenate([first["draw"], second["draw"]])
    assert len(set(draws.tolist())) == 8
    key = jax.random.fold_in(jax.random.key(1), 5)
    np.testing.assert_allclose(draws[5], jax.random.uniform(key))


def test_eight_devices_train_like_one():
    alone, spread = problem.state(mask=half_mask()), problem.state(mask=half_mask())
    one, eight = problem.step(), problem.step(mesh=problem.mesh())
    for t in range(20):
        alone, _ = one(alone, problem.batch_at(t), 0.05)
        spread, _ = eight(spread, problem.batch_at(t), 0.05)
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(spread.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    # The same parameters give the identical mask, wherever they lie.
    assert len(spread.params["first"]["kernel"].sharding.device_set) == 8
    local = jax.device_put(jax.device_get(spread.params), jax.devices()[0])
    assert_trees_equal(jp.prune(spread.params, 0.7)[1], jp.prune(local, 0.7)[1])


@pytest.mark.parametrize(
    "make_optimizer",
    [
        problem.sgd,
        lambda lr: optax.adamw(lr, weight_decay=0.1),
        pytest.param(optax.adam, marks=pytest.mark.slow),
    ],
)
def test_pruned_weights_stay_zero_through_the_loop(make_optimizer):
    mask = half_mask()
    # Optax' own adam raises a float to an integer power, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        state = problem.state(make_optimizer, mask=mask)
        state, _ = problem.loop(make_optimizer)(state, RATES / 10)
    for name in ("first", "last"):
        pruned = np.asarray(state.params[name]["kernel"])[~np.asarray(mask[name]["kernel"])]
        np.testing.assert_array_equal(pruned, 0)
        moved = state.params[name]["kernel"] != problem.params()[name]["kernel"]
        assert np.any(np.asarray(moved & mask[name]["kernel"]))


def test_the_learning_rate_stays_float32_for_bfloat16_parameters():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), problem.params())
    state = jp.training.TrainState.create(params, problem.sgd, key=jax.random.key(0))
    state = state._replace(opt_state=jp.transforms.set_learning_rate(state.opt_state, 0.1))
    rate = optax.tree.get(state.opt_state, "learning_rate")
    assert rate.dtype == jnp.float32
    assert float(rate) == np.float32(0.1)


def test_a_ready_optimizer_is_refused():
    ready = optax.sgd(0.1)
    with pytest.raises(TypeError, match=r"function from a learning rate.*a ready optimizer"):
        jp.training.TrainState.create(problem.params(), ready, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"function from a learning rate.*a ready optimizer"):
        jp.training.make_train_step(problem.loss_fn, ready)
    with pytest.raises(TypeError, match=r"got 0\.1"):
        jp.training.make_train_step(problem.loss_fn, 0.1)


def test_an_optimizer_that_ignores_its_learning_rate_is_refused():
    scheduled = optax.constant_schedule(0.1)
    for ignoring in (lambda lr: optax.sgd(0.1), lambda lr: optax.sgd(scheduled)):
        with pytest.raises(ValueError, match="does not use its learning rate"):
            problem.state(ignoring)


def test_bad_input():
    params = problem.params()
    key = jax.random.key(0)
    broken = {**params, "last": {**params["last"], "bias": jnp.array([0.0, jnp.nan, 0.0])}}
    with pytest.raises(ValueError, match="parameters at 'last/bias' hold NaN"):
        jp.training.TrainState.create(broken, problem.sgd, key=key)
    with pytest.raises(TypeError, match="'steps' is of dtype int32: it has no gradient"):
        jp.training.TrainState.create({**params, "steps": jnp.int32(3)}, problem.sgd, key=key)
    with pytest.raises(ValueError, match="no prunable leaf"):
        jp.training.TrainState.create({"bias": jnp.ones(3)}, problem.sgd, key=key)
    with pytest.raises(ValueError, match="the mask is of another tree"):
        jp.training.TrainState.create(params, problem.sgd, mask={"a": jnp.ones(3, bool)}, key=key)
    with pytest.raises(ValueError, match="chunk_steps is at least 1 step; got 0"):
        problem.loop(chunk_steps=0)
    for rates in (np.ones((2, 2)), 0.1):
        with pytest.raises(ValueError, match="learning_rates is a one-dimensional array"):
            problem.loop()(problem.state(), rates)
    with pytest.raises(ValueError, match="not all finite"):
        problem.loop()(problem.state(), [0.1, np.nan])
    step = jp.training.make_train_step(lambda p, m, b, k: (jnp.sum(p["w"]), (m, 0.0)), problem.sgd)
    state = jp.training.TrainState.create({"w": jnp.ones((2, 2))}, problem.sgd, key=key)
    with pytest.raises(TypeError, match=r"metrics a dict of scalars; got float"):
        step(state, None, 0.1)
