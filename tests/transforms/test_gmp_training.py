"""Every optimizer under `gmp`, against a loop that writes masks and their moves out by hand."""

import functools

import jax
import moving_checks
import numpy as np
import optax
import optax.contrib
import pytest
import transform_cases as tc

from jaxprune.transforms import get_mask, gmp

STEPS, SPARSITY = 12, 0.8
DENSE = jax.tree.map(np.ones_like, tc.make_mask())
SIZES = {"conv": 3 * 3 * 2 * 4, "dense": 4 * 3}


def pruned(tx):
    # Moves after steps 4 and 8. The first is in the middle of an accumulation of three.
    return moving_checks.strict(lambda tx: gmp(tx, SPARSITY, total_steps=12, interval=4), tx)


TARGETS = (SPARSITY * (1 - 0.5**3), SPARSITY)


def pruned_once(tx):
    """For an optimizer that steps every third time: a move after two of its steps."""
    return moving_checks.strict(lambda tx: gmp(tx, SPARSITY, total_steps=4, interval=2), tx)


def _injected(learning_rate):
    return pruned(optax.adamw(learning_rate))


# Where the wrap is inside of something; what has no prunable leaf is left as it is.
INSIDE = {
    "multisteps_outside": lambda: optax.MultiSteps(pruned_once(optax.adamw(tc.LR)), 3),
    "inject_outside": lambda: optax.inject_hyperparams(_injected)(learning_rate=tc.LR),
    "partition_outside": lambda: optax.partition(
        {"kernel": pruned(optax.adamw(tc.LR)), "bias": optax.sgd(tc.LR, 0.9)}, tc.labels
    ),
    "partition_outside_prefix": lambda: optax.partition(
        {"a": pruned(optax.adam(tc.LR)), "b": pruned(optax.sgd(tc.LR, 0.9))},
        {"conv": "a", "dense": "b"},
    ),
    "apply_if_finite_outside": lambda: optax.apply_if_finite(pruned(optax.adam(tc.LR)), 3),
}
each = pytest.mark.parametrize("name", tc.CASES)


def test_no_wrapper_is_forgotten():
    assert {name for name in tc.CASES if "_outside" in name} == INSIDE.keys()


@functools.cache
def trained(name):
    """Parameters, state and mask after every step; they begin dense."""
    tx = tc.relaxed(INSIDE[name]()) if name in INSIDE else pruned(tc.CASES[name].plain)
    step = tc.compiled_step(tx, by_hand=False)
    params, seen = tc.make_params(), []
    state = tx.init(params)
    for batch in zip(*tc.make_batches(STEPS), strict=True):
        params, state = step(params, state, batch, None)
        seen.append((params, state, get_mask(state)))
    return tc.stacked(seen)


def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def moves(name):
    """``{step: sparsity}``."""
    if name == "multisteps_outside":
        return {6: SPARSITY}
    return dict(zip((4, 8), TARGETS, strict=True))


def prune(params, mask, sparsity, *, each):
    """The lowest kept magnitudes go until round(sparsity n) are gone, of all or of each layer."""
    new = jax.tree.map(np.copy, mask)
    for layers in [("conv",), ("dense",)] if each else [("conv", "dense")]:
        ranked = sorted(
            (abs(float(w)), layer, i)
            for layer in layers
            for i, w in enumerate(np.asarray(params[layer]["kernel"]).ravel())
            if mask[layer]["kernel"].ravel()[i]
        )
        total = sum(SIZES[layer] for layer in layers)
        for _, layer, i in ranked[: len(ranked) - (total - round(sparsity * total))]:
            new[layer]["kernel"].reshape(-1)[i] = False
    return new


@each
def test_pruned_weights_and_their_moments_are_zero_after_every_step(name):
    path, states, masks = trained(name)
    for i in range(STEPS):
        assert not tc.pruned_entries(at(path, i), at(masks, i)).any()
        state = at(states, i)
        # The gradients that an outer MultiSteps accumulates come before any transform.
        state = state.inner_opt_state if name == "multisteps_outside" else state
        assert not tc.moments_of_pruned(state, at(masks, i)).any()
    kept = [x[-1].sum() for x in jax.tree.leaves(masks)]
    expected = SIZES["conv"] + SIZES["dense"] - round(SPARSITY * 84)
    if name == "partition_outside_prefix":  # each label has its own threshold
        expected = sum(n - round(SPARSITY * n) for n in SIZES.values())
    assert sum(kept) == expected
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(path))


@each
def test_kept_weights_move_as_in_the_hand_written_loop(name):
    path, _, masks = trained(name)
    plain, due = tc.CASES[name].plain, moves(name)
    params, mask = tc.make_params(), DENSE
    state = plain.init(params)
    length = next(iter(due))
    for end in range(length, STEPS + 1, length):
        batches = jax.tree.map(lambda x, end=end: x[end - length : end], tc.make_batches(STEPS))
        (params, state), by_hand = tc.train(plain, params, state, mask=mask, batches=batches)
        last = length - 1 if end in due else length
        for i in range(last):
            assert_same(at(masks, end - length + i), mask)
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
                at(path, end - length + i),
                at(by_hand, i),
            )
        if end not in due:
            continue
        mask = prune(params, mask, due[end], each=name == "partition_outside_prefix")
        assert_same(at(masks, end - 1), mask)
        # By hand: weights and moments times the new mask.
        params = tc.times(params, mask)
        by_shape = {m.shape: m for m in jax.tree.leaves(mask)}
        state = jax.tree.map(
            lambda x, by_shape=by_shape: (
                x * by_shape[x.shape].astype(x.dtype) if x.shape in by_shape else x
            ),
            state,
        )
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
            at(path, end - 1),
            params,
        )


@pytest.mark.parametrize("name", ["schedule_free", "schedule_free_adamw"])
def test_evaluation_parameters_are_sparse(name):
    path, states, masks = trained(name)
    for i in (3, 7, STEPS - 1):
        evaluated = optax.contrib.schedule_free_eval_params(at(states, i).inner_state, at(path, i))
        assert not tc.pruned_entries(evaluated, at(masks, i)).any()
        assert np.any(evaluated["conv"]["kernel"] != path["conv"]["kernel"][i])


def test_an_accumulation_goes_on_through_a_move():
    """The gradients that an inner MultiSteps has accumulated of pruned weights are forgotten."""
    _, states, masks = trained("multisteps_inside")
    state = at(states, 3).inner_state
    assert int(state.mini_step) == 1
    kept = masks["conv"]["kernel"][3]
    assert not np.any(state.acc_grads["conv"]["kernel"][~kept])
    assert np.any(state.acc_grads["conv"]["kernel"][kept])
