"""Pruning at given steps: the loop of iterative and one-shot pruning, scores, refusals."""

import functools

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import optax.contrib
import pytest
from pruning_cases import assert_counts, rule
from transform_cases import relaxed

import jaxprune as jp
from jaxprune.transforms import get_mask, gmp, one_shot, prune_at


def test_iterative_magnitude_pruning_follows_its_definition():
    steps = (8, 16, 24, 32)
    targets = {t: 1 - 0.1 ** (j / 4) for j, t in enumerate(steps, start=1)}
    sparsities = jp.schedules.imp_sparsities(0.9, 4)
    tx = prune_at(mo.inner(), steps, sparsities, total_steps=mo.STEPS)
    masks = mo.assert_follows(tx, mo.start(), rule(targets))
    assert_counts(masks, targets)


@pytest.mark.parametrize(
    "step",
    [pytest.param(1, marks=pytest.mark.slow), 20, pytest.param(mo.STEPS, marks=pytest.mark.slow)],
)
def test_one_shot_follows_its_definition(step):
    tx = one_shot(mo.inner(), 0.8, step=step, total_steps=mo.STEPS)
    masks = mo.assert_follows(tx, mo.start(), rule({step: 0.8}))
    assert_counts(masks, {step: 0.8})


def test_the_last_step_of_training_may_prune():
    tx = one_shot(optax.sgd(1.0), 0.5, step=2, total_steps=2)
    params, grads = {"kernel": jnp.asarray([[1.0, 2.0]])}, {"kernel": jnp.asarray([[-3.0, 0.0]])}
    state = tx.init(params)
    for expected in ([[4, 2]], [[7, 0]]):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert params["kernel"].tolist() == expected


# Scores


def test_scores_see_the_gradients_given_to_update():
    def taylor(weights, grads):
        return {name: np.abs(w * grads[name]) for name, w in weights.items()}

    targets = {10: 0.4, 25: 0.7}
    tx = prune_at(mo.inner(), (10, 25), (0.4, 0.7), scores=jp.scores.taylor)
    masks = mo.assert_follows(tx, mo.start(), rule(targets, score=taylor))
    assert_counts(masks, targets)


def test_scores_get_extra_arguments_by_name():
    params = {"kernel": jnp.ones((4, 2))}
    tx = one_shot(optax.sgd(0.0), 0.5, step=1, scores=jp.scores.wanda)
    norms = {"kernel": jnp.asarray([[1.0], [4.0], [2.0], [3.0]])}
    updates, _ = tx.update(params, tx.init(params), params, input_norms=norms)
    end = optax.apply_updates(params, updates)
    assert end["kernel"].tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]


def test_a_missing_extra_argument_is_named_at_the_first_update():
    params = {"kernel": jnp.ones((4, 2))}
    tx = prune_at(optax.sgd(0.1), (100,), (0.5,), scores=jp.scores.wanda)
    message = r"scores ask for 'input_norms', which update did not get.*input_norms=\.\.\."
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match=message):
            update(params, tx.init(params), params)


def test_scores_may_take_all_extra_arguments():
    seen = []

    def scores(params, **extra):
        seen.append(set(extra))
        return jax.tree.map(lambda p: p * extra.get("temperature", 1.0), params)

    params = {"kernel": jnp.asarray([[1.0, 2.0]])}
    tx = one_shot(optax.sgd(0.0), 0.5, step=1, scores=scores)
    _, state = tx.update(params, tx.init(params), params, temperature=jnp.float32(-1.0))
    assert seen[-1] == {"grads", "temperature"}
    assert get_mask(state)["kernel"].tolist() == [[True, False]]


def test_an_argument_that_is_bound_is_not_asked_for():
    key = jax.random.key(0)
    params = {"kernel": jnp.ones((4, 4))}
    tx = one_shot(optax.sgd(0.1), 0.5, step=1, scores=lambda params: jp.scores.random(key, params))
    _, state = tx.update(params, tx.init(params), params)
    expected = jp.masks.make(jp.scores.random(key, params), 0.5)
    np.testing.assert_array_equal(get_mask(state)["kernel"], expected["kernel"])
    tx = one_shot(
        optax.sgd(0.1), 0.5, step=1, scores=functools.partial(jp.scores.taylor, squared=True)
    )
    _, state = tx.update(params, tx.init(params), params)
    assert jp.sparsity(get_mask(state)) == 0.5


# What is prunable, and how it is spread


def test_where_reaches_the_scores():
    params = {"a": {"kernel": jnp.ones((4, 4))}, "b": {"kernel": jnp.ones((2, 4))}}
    tx = one_shot(optax.sgd(0.1), 0.5, step=1, where=lambda path, _: path.startswith("b"))
    state = tx.init(params)
    assert get_mask(state)["a"]["kernel"] is None
    updates, state = tx.update(params, state, params)
    end = optax.apply_updates(params, updates)
    assert (end["a"]["kernel"] != 0).all()
    assert int((end["b"]["kernel"] == 0).sum()) == 4


def test_where_beside_scores_that_cannot_take_it_is_refused():
    with pytest.raises(TypeError, match=r"'<lambda>' takes no argument `where`.*Leave out where="):
        one_shot(optax.sgd(0.1), 0.5, step=1, scores=lambda p: p, where=lambda path, leaf: True)


def test_where_that_takes_nothing_is_refused_by_init():
    tx = one_shot(optax.sgd(0.1), 0.5, step=1, where=lambda path, leaf: False)
    with pytest.raises(ValueError, match=r"no prunable leaf among 1: \[kernel\(2, 2\)\]"):
        tx.init({"kernel": jnp.ones((2, 2))})


@pytest.mark.parametrize("sparsity", [None, 0.5])
def test_patterns(sparsity):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(8, 6)), jnp.float32)}
    pattern = jp.masks.nm(2, 4, axis=0)
    tx = one_shot(optax.sgd(0.0), sparsity, step=1, pattern=pattern)
    _, state = tx.update(params, tx.init(params), params)
    expected = jp.masks.make(jp.scores.magnitude(params), None, pattern=pattern)
    np.testing.assert_array_equal(get_mask(state)["kernel"], expected["kernel"])


# Steps that do not happen


@pytest.mark.parametrize("wrap", [optax.apply_if_finite, optax.MultiSteps])
def test_under_wrappers_outside_steps_are_those_that_happen(wrap):
    with jax.numpy_dtype_promotion("standard"):
        tx = wrap(one_shot(optax.sgd(0.1), 0.5, step=2), 2)
        params = {"kernel": jnp.asarray([[1.0, 2.0]])}
        state, step, found = tx.init(params), mo.stepper(tx), []
        for grad in (0.0, jnp.nan if wrap is optax.apply_if_finite else 0.0, 0.0, 0.0):
            grads = {"kernel": jnp.full((1, 2), grad)}
            params, state = step(grads, state, params)
            found.append(int((params["kernel"] == 0).sum()))
    # The second step is the third call without the NaN, and the fourth of pairs of calls.
    assert found == ([0, 0, 1, 1] if wrap is optax.apply_if_finite else [0, 0, 0, 1])


def test_an_inner_apply_if_finite_rests_but_the_mask_moves():
    with jax.numpy_dtype_promotion("standard"):
        tx = one_shot(optax.apply_if_finite(optax.sgd(0.1), 2), 0.5, step=1)
        params = {"kernel": jnp.asarray([[1.0, 2.0]])}
        grads = {"kernel": jnp.full((1, 2), jnp.nan)}
        updates, _ = tx.update(grads, tx.init(params), params)
    assert optax.apply_updates(params, updates)["kernel"].tolist() == [[0, 2]]


# Refusals


@pytest.mark.parametrize(
    ("steps", "sparsities", "options", "message"),
    [
        ((), (), {}, r"there is at least one; got 0 steps and 0 sparsities"),
        ((1, 2), (0.5,), {}, r"steps and sparsities pair.*got 2 steps and 1 sparsities"),
        ((2, 2), (0.1, 0.2), {}, r"steps rise; got \(2, 2\)"),
        ((2, 1), (0.1, 0.2), {}, r"steps rise; got \(2, 1\)"),
        ((0, 1), (0.1, 0.2), {}, r"a step to prune after is 0, but must be at least 1"),
        ((1, 2), (0.2, 0.1), {}, r"sparsities rise; got \(0\.2, 0\.1\). A pruned weight stays"),
        ((1,), (-0.1,), {}, r"sparsity is -0\.1, but a fraction removed"),
        ((1,), (1.0,), {}, r"sparsity is 1\.0, but a fraction removed"),
        ((1,), (90,), {}, r"in \[0, 1\)\. For 90 % pass 0\.9"),
        (
            (1, 9),
            (0.1, 0.2),
            {"total_steps": 8},
            r"after step 9 comes after the end of training, t",
        ),
        ((2**31,), (0.5,), {}, r"prune_at counts steps in int32; 2147483648 is too large"),
    ],
)
def test_steps_and_sparsities_that_cannot_be(steps, sparsities, options, message):
    with pytest.raises(ValueError, match=message):
        prune_at(optax.sgd(0.1), steps, sparsities, **options)


@pytest.mark.parametrize(
    ("steps", "sparsities", "message"),
    [
        ((1.0,), (0.5,), r"to prune after must be a static Python integer.*1\.0"),
        ((True,), (0.5,), r"to prune after must be a static Python integer.*True"),
        ((1,), ("0.5",), r"sparsity must be a static number, but it is '0\.5'"),
        ((1,), (True,), r"sparsity must be a static number, but it is True"),
    ],
)
def test_kinds(steps, sparsities, message):
    with pytest.raises(TypeError, match=message):
        prune_at(optax.sgd(0.1), steps, sparsities)


@pytest.mark.parametrize("inner", [optax.adam, lambda p: p, 0.1])
def test_what_is_no_optimizer(inner):
    with pytest.raises(TypeError, match=r"prune_at wraps an optimizer.*got '(adam|<lambda>|float)"):
        prune_at(inner, (1,), (0.5,))
    with pytest.raises(TypeError, match=r"gmp wraps an optimizer.*optax\.adam\(learning_rate\)"):
        gmp(inner, 0.5, total_steps=4, interval=1)
    with pytest.raises(TypeError, match=r"one_shot wraps an optimizer"):
        one_shot(inner, 0.5, step=1)


def test_scores_that_are_a_tree():
    with pytest.raises(TypeError, match=r"scores must be a function.*dict: every mask needs new"):
        prune_at(optax.sgd(0.1), (1,), (0.5,), scores={"kernel": 1})


def test_missing_parameters():
    tx, params = one_shot(optax.sgd(0.1), 0.5, step=1), {"kernel": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=r"one_shot needs the parameters, got params=None"):
        tx.update(params, tx.init(params))


def test_a_mask_of_another_tree():
    params = {"kernel": jnp.ones((2, 2))}

    def made(within):
        return one_shot(optax.sgd(0.1), 0.5, step=1, within=within)

    with pytest.raises(ValueError, match=r"another tree.*'w'"):
        made({"w": jnp.ones((2, 2), bool)}).init(params)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) at 'kernel'"):
        made({"kernel": jnp.ones((2, 3), bool)}).init(params)
    with pytest.raises(TypeError, match=r"'kernel' has dtype float32"):
        made({"kernel": jnp.ones((2, 2))}).init(params)
    with pytest.raises(ValueError, match="the mask has no leaf"):
        made({"kernel": None}).init(params)
    both = params | {"out": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(
        ValueError, match=r"one_shot disagree on what is prunable, first at 'kernel"
    ):
        made({"kernel": None, "out": {"kernel": jnp.ones((2, 2), bool)}}).init(both)


def test_a_mask_sparser_than_the_first_target_is_refused_by_init():
    params = {"kernel": jnp.ones((1, 4))}
    mask = {"kernel": jnp.asarray([[False, False, False, True]])}
    tx = prune_at(optax.sgd(0.1), (1, 2), (0.5, 0.9), within=mask)
    message = r"prune_at is to prune to sparsity 0\.5, but 3 of the 4.*masked.*0\.75\. Ask for more"
    with pytest.raises(ValueError, match=message):
        tx.init(params)
    # Exactly the target is no less than asked.
    prune_at(optax.sgd(0.1), (1,), (0.75,), within=mask).init(params)


def test_weights_sparser_than_the_last_target_are_refused_by_init():
    params = {"kernel": jnp.asarray([[0.0, 0.0, 0.0, 1.0]])}
    message = r"prune_at is to prune to sparsity 0\.5, but 3 of the 4.*zero.*0\.75\. Ask for more"
    with pytest.raises(ValueError, match=message):
        prune_at(optax.sgd(0.1), (1, 2), (0.25, 0.5)).init(params)
    # Zeros are no mask: they go first, and a template of zeros is no pruned network.
    prune_at(optax.sgd(0.1), (1, 2), (0.25, 0.75)).init(params)
    prune_at(optax.sgd(0.1), (1,), (0.5,)).init(jax.tree.map(jnp.zeros_like, params))


def test_an_allocation_or_pattern_that_does_not_fit_is_refused_by_init():
    params = {"kernel": jnp.ones((6, 4))}
    tx = one_shot(optax.sgd(0.1), None, step=1, pattern=jp.masks.nm(2, 4, axis=0))
    with pytest.raises(ValueError, match=r"'kernel'.*6"):
        tx.init(params)
    tx = one_shot(optax.sgd(0.1), 0.5, step=1, allocation=jp.masks.globally(max_sparsity=0.2))
    with pytest.raises(ValueError, match=r"cannot add up: 0\.5 of 24 removes 12"):
        tx.init(params)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (optax.flatten(optax.adam(0.1)), r"no copy of the parameters.*Leave out optax\.flatten"),
        (optax.lbfgs(), r"history of whole parameters, as lbfgs.*first-order"),
        (optax.lbfgs(0.1, linesearch=None), r"history of whole parameters, as lbfgs"),
    ],
)
def test_optimizers_whose_state_mixes_weights_are_refused_by_init(inner, message):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    for make in (
        lambda tx: one_shot(tx, 0.5, step=1),
        lambda tx: gmp(tx, 0.5, total_steps=4, interval=1),
    ):
        with pytest.raises(ValueError, match=message):
            make(relaxed(inner)).init(params)
