"""Every optimizer, fifty steps, against a loop that writes the mask out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from transform_cases import (
    CASES,
    EXACT,
    LR,
    full_mask,
    make_batches,
    make_mask,
    make_params,
    masked,
    masking,
    moments_of_pruned,
    pruned_entries,
    relaxed,
    times,
    train,
)

from jaxprune.transforms import fixed_mask, get_mask, set_mask

each = pytest.mark.parametrize("name", CASES)


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@functools.cache
def trained(name):
    tx, params = masked(name), times(make_params(), make_mask())
    (end, state), path = train(tx, params, tx.init(params), name=name)
    return params, end, state, path


@each
def test_pruned_weights_are_exactly_zero_after_every_step(name):
    params, end, _, path = trained(name)
    assert not pruned_entries(path, make_mask()).any()
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(end), strict=True):
        assert np.any(before != after)
        assert np.all(np.isfinite(after))


@each
def test_moments_of_pruned_weights_are_zero(name):
    *_, state, _ = trained(name)
    # The gradients that an outer MultiSteps accumulates come before any transform.
    state = state.inner_opt_state if name == "multisteps_outside" else state
    assert not moments_of_pruned(state, make_mask()).any()


@each
def test_kept_weights_move_as_under_the_optimizer_with_masked_gradients(name):
    mask, plain = make_mask(), CASES[name].plain
    params, *_, path = trained(name)
    _, expected = train(plain, params, plain.init(params), mask=mask, name=name)
    assert_same_bits(path, expected)


@pytest.mark.parametrize("name", ["schedule_free", "schedule_free_adamw"])
def test_evaluation_parameters_are_sparse(name):
    _, end, state, _ = trained(name)
    evaluated = optax.contrib.schedule_free_eval_params(state.inner_state, end)
    assert not pruned_entries(evaluated, make_mask()).any()
    assert np.any(evaluated["conv"]["kernel"] != end["conv"]["kernel"])


@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        "adafactor",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("muon", "inject_inside", "schedule_free")
        ),
    ],
)
def test_bfloat16_weights(name):
    mask, tx = make_mask(), masked(name)
    params = make_params(dtype=jnp.bfloat16)
    # Adafactor's updates are float32: adding those to bfloat16 weights is up to apply_updates.
    with jax.numpy_dtype_promotion("standard"):
        (end, _), path = train(tx, params, tx.init(params), batches=make_batches(6))
    assert not pruned_entries(path, mask).any()
    assert {leaf.dtype.name for leaf in jax.tree.leaves(end)} == {"bfloat16"}
    assert np.any(end["conv"]["kernel"] != times(params, mask)["conv"]["kernel"])


@pytest.mark.parametrize(("weights", "updates"), [("float32", "bfloat16"), ("bfloat16", "float16")])
def test_updates_narrower_than_the_weights(weights, updates):
    mask = make_mask()
    params = make_params(dtype=weights)
    tx = fixed_mask(optax.sgd(LR), mask)
    grads = make_params(seed=3, dtype=updates)
    out, _ = tx.update(grads, tx.init(params), params)
    assert out["conv"]["bias"].dtype == updates  # not prunable: left as it is
    with jax.numpy_dtype_promotion("standard"):  # apply_updates adds two dtypes
        end = optax.apply_updates(params, out)
        plain = optax.sgd(LR)
        plain = optax.apply_updates(params, plain.update(grads, plain.init(params))[0])
    assert not pruned_entries(end, mask).any()
    assert_same_bits(end, times(plain, mask))


@pytest.mark.parametrize("name", ["nesterov", "adam", "adafactor", "lamb", "muon", "schedule_free"])
def test_newly_pruned_weights_are_zero_after_one_update_and_stay(name):
    plain, first = CASES[name].plain, make_mask()
    second = jax.tree.map(jnp.logical_and, first, make_mask(seed=5))
    _, end, state, _ = trained(name)
    tx = masked(name)
    new_state = set_mask(state, second)
    assert pruned_entries(end, second).any()  # else the next lines prove nothing
    assert moments_of_pruned(new_state, second).any()
    (_, new_state), path = train(tx, end, new_state, name=name)
    assert not pruned_entries(path, second).any()
    assert not moments_of_pruned(new_state, second).any()

    # By hand: weights and moments times the new mask, then the plain optimizer. The first
    # gradient above was taken at unpruned weights, so here both start from pruned ones.
    masks = {m.shape: m for m in jax.tree.leaves(full_mask(second)) if m.ndim > 1}
    by_hand = jax.tree.map(
        lambda x: x * masks[x.shape].astype(x.dtype) if x.shape in masks else x, state.inner_state
    )
    start = times(end, second)
    _, path = train(tx, start, set_mask(state, second), name=name)
    _, expected = train(plain, start, by_hand, mask=second, name=name)
    assert_same_bits(path, expected)


def test_readmitted_weights_start_from_zero_with_fresh_moments():
    mask = make_mask()
    _, end, state, _ = trained("adam")
    state = set_mask(state, jax.tree.map(jnp.ones_like, mask))
    (after, _), _ = train(masked("adam"), end, state, batches=make_batches(1))
    # A filter without outgoing weights has no gradient: those entries stay zero, most move.
    moved = pruned_entries(after, mask)
    moved = moved[moved != 0]
    assert moved.size > 20
    # A step of adam from zero moments, mu = (1 - b1) g and nu = (1 - b2) g^2, at count 51.
    step = LR * (0.1 / (1 - 0.9**51)) / np.sqrt(0.001 / (1 - 0.999**51))
    np.testing.assert_allclose(np.abs(moved), step, rtol=1e-2)


def test_dense_start_is_pruned_by_the_first_update():
    mask, params = make_mask(), make_params()
    tx = fixed_mask(optax.sgd(LR, 0.9), mask)
    (_, _), path = train(tx, params, tx.init(params), batches=make_batches(3))
    assert not pruned_entries(path, mask).any()


@pytest.mark.parametrize("name", ["lars", "adafactor", "schedule_free"])
def test_the_optimizer_never_sees_the_dense_values_of_pruned_weights(name):
    mask, tx, grads = make_mask(), masked(name), make_params(seed=3)
    start = {"dense": make_params(), "pruned": times(make_params(), mask)}
    end, update = {}, jax.jit(tx.update, compiler_options=EXACT)
    for key, params in start.items():
        updates, state = update(grads, tx.init(params), params)
        end[key] = optax.apply_updates(params, updates), state
    assert_same_bits(end["dense"], end["pruned"])


@pytest.mark.parametrize("name", ["schedule_free"])
def test_copies_of_dense_weights_do_not_reach_the_state(name):
    state = masked(name).init(make_params())
    assert not moments_of_pruned(state, make_mask()).any()


def test_an_outer_multisteps_prunes_when_it_steps():
    mask, params = make_mask(), make_params()
    tx = relaxed(optax.MultiSteps(masking(optax.sgd(LR), mask), 3))
    _, path = train(tx, params, tx.init(params), batches=make_batches(4))
    zero = [
        not pruned_entries(jax.tree.map(lambda x, i=i: x[i], path), mask).any() for i in range(4)
    ]
    assert zero == [False, False, True, True]


def test_nan_gradients_of_pruned_weights_do_no_harm():
    mask, params = make_mask(), make_params()
    tx = fixed_mask(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(LR, 0.9)), mask)
    grads = jax.tree.map(lambda m: np.where(m, 1.0, np.nan).astype("f4"), full_mask(mask))
    update = jax.jit(tx.update, compiler_options=EXACT)
    updates, state = update(grads, tx.init(params), params)
    for leaf in jax.tree.leaves((optax.apply_updates(params, updates), state)):
        assert np.all(np.isfinite(leaf))


def test_the_mask_in_the_state_is_the_one_given():
    for name in CASES:
        mask = get_mask(trained(name)[2])
        assert jax.tree.structure(mask) == jax.tree.structure(make_mask())
        assert_same_bits(mask, make_mask())
