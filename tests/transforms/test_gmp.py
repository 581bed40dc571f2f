"""Gradual magnitude pruning, against hand-worked cases and a slow loop in NumPy."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import pytest
from pruning_cases import TOTAL, assert_counts, prune_globally, rule

import jaxprune as jp
from jaxprune.transforms import get_mask, gmp


def zeros_of(tx, steps, grads=None):
    """How many of the weights 1, 2, ..., 16 are zero after each step; they are the first ones."""
    params = {"kernel": jnp.arange(1.0, 17.0).reshape(4, 4)}
    grads = {"kernel": jnp.zeros((4, 4))} if grads is None else grads
    state, step, found = tx.init(params), mo.stepper(tx), []
    for _ in range(steps):
        params, state = step(grads, state, params)
        zero = np.asarray(params["kernel"] == 0).ravel()
        np.testing.assert_array_equal(zero, ~np.asarray(get_mask(state)["kernel"]).ravel())
        assert not zero[zero.sum() :].any()  # the lowest go
        found.append(int(zero.sum()))
    return found


def test_the_times_of_zimmer_et_al_by_hand():
    # floor(9 / 2) - 1 = 3 prunings, to 3/4 (1 - (1 - j / 3)^3): 19/36, 13/18, 3/4 of 16.
    tx = gmp(optax.sgd(0.1), 0.75, total_steps=9, interval=2)
    assert zeros_of(tx, 9) == [0, 8, 8, 12, 12, 12, 12, 12, 12]


def test_the_window_of_zhu_and_gupta_by_hand():
    # To 1/4 after step 1, then 3/4 - 1/2 (1 - j / 2)^3 after steps 3 and 5: 11/16, 3/4 of 16.
    tx = gmp(
        optax.sgd(0.1), 0.75, total_steps=9, interval=2, begin_step=1, end_step=5, initial=0.25
    )
    assert zeros_of(tx, 6) == [4, 4, 11, 11, 12, 12]


def test_weights_are_scored_as_the_step_leaves_them():
    # One pruning, after step 1. The step turns the order around: 2 + 9 > 1 + 9 > 4 > 3.
    tx = gmp(optax.sgd(1.0), 0.5, total_steps=2, interval=1)
    params = {"kernel": jnp.asarray([[1.0, 2.0, 3.0, 4.0]])}
    grads = {"kernel": jnp.asarray([[-9.0, -9.0, 0.0, 0.0]])}
    updates, state = tx.update(grads, tx.init(params), params)
    assert optax.apply_updates(params, updates)["kernel"].tolist() == [[10, 11, 0, 0]]
    assert get_mask(state)["kernel"].tolist() == [[True, True, False, False]]


def cubic(final, initial, begin, end, interval):
    """The schedule of the paper, at t = begin + j interval."""
    return {
        t: final + (initial - final) * (1 - (t - begin) / (end - begin)) ** 3
        for t in range(begin + (0 if initial else interval), end + 1, interval)
    }


RUNS = {
    # 40 steps, every 6: floor(40 / 6) - 1 = 5 prunings, the last after step 30.
    "bimp": ({"interval": 6}, cubic(0.9, 0, 0, 30, 6), False),
    "bimp_uniform": (
        {"interval": 10, "allocation": jp.masks.uniform()},
        cubic(0.9, 0, 0, 30, 10),
        True,
    ),
    "window": (
        {"interval": 5, "begin_step": 4, "end_step": 34, "initial": 0.2},
        cubic(0.9, 0.2, 4, 34, 5),
        False,
    ),
    "window_uniform": (
        {
            "interval": 4,
            "begin_step": 3,
            "end_step": 40,
            "initial": 0.1,
            "allocation": jp.masks.uniform(),
        },
        cubic(0.9, 0.1, 3, 39, 4),
        True,
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("bimp", "window_uniform") else pytest.param(n, marks=pytest.mark.slow)
        for n in RUNS
    ],
)
def test_forty_steps_follow_the_definition(name):
    options, targets, each = RUNS[name]
    tx = gmp(mo.inner(), 0.9, total_steps=mo.STEPS, **options)
    masks = mo.assert_follows(tx, mo.start(), rule(targets, each=each))
    assert_counts(masks, targets, each=each)
    assert len(targets) > 2


def test_it_starts_within_a_mask():
    within = {"a": {"kernel": np.arange(48).reshape(6, 8) % 4 > 0}}
    within["b"] = {"kernel": np.ones((8, 4), bool), "bias": None}
    targets = cubic(0.9, 0, 0, 30, 10)
    tx = gmp(mo.inner(), 0.9, total_steps=mo.STEPS, interval=10, within=within)
    masks = mo.assert_follows(tx, mo.start(), rule(targets))
    np.testing.assert_array_equal(masks[0]["a"], within["a"]["kernel"])
    for before, after in pairwise(masks):
        assert all((after[k] <= before[k]).all() for k in mo.SHAPES)


@pytest.mark.parametrize(
    ("allocation", "counts"),
    [
        pytest.param(jp.masks.erk(), [[9, 8], [4, 4]], id="erk", marks=pytest.mark.slow),
        pytest.param(jp.masks.lamp(), [[9, 8], [3, 5]], id="lamp"),
    ],
)
def test_allocations_spread_every_target(allocation, counts):
    @functools.partial(jax.jit, compiler_options=mo.FAST)
    def expected(scores):
        make = functools.partial(jp.masks.make, scores, allocation=allocation)
        first = make(0.9 * (1 - 0.5**3))
        return first, make(0.9, within=first)

    tx = gmp(optax.sgd(0.0), 0.9, total_steps=3, interval=1, allocation=allocation)
    params, step = mo.start(), mo.stepper(tx)
    state = tx.init(params)
    for mask, kept in zip(expected(jp.scores.magnitude(params)), counts, strict=True):
        params, state = step(params, state, params)
        jax.tree.map(np.testing.assert_array_equal, get_mask(state), mask)
        assert [int(m.sum()) for m in jax.tree.leaves(mask)] == kept  # globally 8, 9 and 2, 6


def test_random_pruning_follows_the_scores_that_were_drawn():
    key = jax.random.key(5)
    method = jp.methods.random(0.9, key=key, total_steps=mo.STEPS, interval=10)
    tx, params, targets = method.transform(mo.inner()), mo.start(), cubic(0.9, 0, 0, 30, 10)
    draw = jax.jit(functools.partial(jp.scores.random, key), compiler_options=mo.FAST)
    drawn = mo.kernels(draw(params))
    masks = mo.assert_follows(tx, params, rule(targets, score=lambda weights, grads: drawn))
    assert_counts(masks, targets)
    (end, state), _ = mo.train(tx, params, tx.init(params), mo.data())
    final, mask = method.finish(end, state)
    expected = prune_globally(masks[0], drawn, round(0.9 * TOTAL))
    for name, weights in mo.kernels(final).items():
        np.testing.assert_array_equal(mask[name]["kernel"], expected[name])
        np.testing.assert_array_equal(weights != 0, expected[name])


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 6}, r"never prunes: interval=6 leaves no pruning in total_steps=10.*at most"),
        ({"interval": 5, "begin_step": 9}, r"never prunes: .* after begin_step=9\. .*begin earlie"),
        (
            {"interval": 5, "begin_step": 2, "end_step": 6},
            r"never prunes: no interval of 5 steps fits between begin_step=2 and end_step=6",
        ),
        ({"interval": 2, "end_step": 11}, r"end_step=11 lies after the end of training, total_st"),
        ({"interval": 2, "initial": 0.9, "begin_step": 1}, r"initial is 0\.9.*below final=0\.5"),
        ({"interval": 2, "initial": 0.1}, r"asks for a pruning before the first step"),
        ({"interval": 0}, "interval is 0, but must be at least 1"),
    ],
)
def test_windows_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        gmp(optax.sgd(0.1), 0.5, total_steps=10, **options)


@pytest.mark.parametrize("sparsity", [1.0, 50, -0.5])
def test_the_end_is_a_fraction(sparsity):
    with pytest.raises(ValueError, match=f"sparsity is {sparsity}, but a fraction removed"):
        gmp(optax.sgd(0.1), sparsity, total_steps=10, interval=2)


def test_steps_are_integers():
    with pytest.raises(TypeError, match="interval must be a static Python integer"):
        gmp(optax.sgd(0.1), 0.5, total_steps=10, interval=2.0)


def test_what_is_sparse_already_is_refused_by_init():
    def made(within=None):
        return gmp(optax.sgd(0.1), 0.5, total_steps=8, interval=2, within=within)

    kept = np.arange(80).reshape(8, 10) >= 50
    zeros = {"kernel": jnp.asarray(kept, jnp.float32)}
    with pytest.raises(ValueError, match=r"gmp is to prune to sparsity 0\.5, but 50 of the 80 pr"):
        made().init(zeros)
    # The first pruning is to 1/2 (1 - (2/3)^3), 28 of the 80, and its mask is not to have 50.
    with pytest.raises(ValueError, match=r"to sparsity 0\.351852, but 50 .* masked already, spars"):
        made({"kernel": kept}).init({"kernel": jnp.ones((8, 10))})


@pytest.mark.parametrize("stacked", [False, True])
def test_groups_of_n_m_lose_more_and_more(stacked):
    # Kept of each group of 8, with n = 3 prunings: 8 - round(4 (1 - (1 - j/3)^3)).
    by_step = {1: 8, 2: 8, 3: 5, 5: 5, 6: 4, 8: 4, 9: 4, 12: 4}
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 5)), jnp.float32)
    params = {"a": {"kernel": kernel}, "b": {"kernel": kernel[0, :6]}}

    def pattern(path, leaf):
        assert leaf.ndim == (2 if stacked or path.startswith("b") else 3)
        return None if path.startswith("b") else jp.masks.nm(4, 8, layout="flax")(path, leaf)

    rules = {"pattern": pattern, "stacked": {"a/.*": 0}} if stacked else {"pattern": pattern}
    tx = gmp(optax.sgd(0.1, momentum=0.9), None, total_steps=12, interval=3, **rules)
    state = tx.init(params)
    update = jax.jit(tx.update)
    before = get_mask(state)
    for step in range(1, 13):
        grads = jax.tree.map(lambda x, step=step: jnp.sin(step * x), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        mask = get_mask(state)
        groups = np.asarray(mask["a"]["kernel"]).reshape(2, 2, 8, 5).sum(axis=2)
        if step in by_step:
            np.testing.assert_array_equal(groups, by_step[step], str(step))
        assert np.asarray(mask["b"]["kernel"]).all()
        jax.tree.map(
            lambda now, then: np.testing.assert_array_equal(now & ~then, False), mask, before
        )
        before = mask
        np.testing.assert_array_equal(params["a"]["kernel"] == 0, ~mask["a"]["kernel"])


def test_without_a_sparsity_there_is_a_pattern():
    nm = {"pattern": jp.masks.nm(2, 4, layout="flax")}
    for options in ({}, nm | {"initial": 0.1}, nm | {"allocation": jp.masks.erk()}):
        with pytest.raises(TypeError, match="gmp needs a sparsity"):
            gmp(optax.sgd(0.1), None, total_steps=10, interval=2, **options)
    tx = gmp(optax.sgd(0.1), None, total_steps=10, interval=2, pattern=jp.masks.block(2, 2))
    with pytest.raises(ValueError, match="does not fix how many weights of a group stay in 'w'"):
        tx.init({"w": jnp.ones((4, 4))})
