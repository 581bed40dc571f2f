"""RigL against its definition."""

import functools
import math

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from moving_checks import (
    assert_same_when_sharded,
    assert_same_with_and_without_jit,
    each_case,
    run_case,
)

import jaxprune as jp
from jaxprune.transforms import freeze, get_mask, rigl, set_mask

KEY = jax.random.key(3)
EVERY, ALPHA = 4, 0.5
CASE = {"key": KEY, "total_steps": 24, "interval": 3, "drop_fraction": 0.5}


def fraction(t, end, alpha=ALPHA):
    return alpha / 2 * (1 + math.cos(math.pi * t / end))


def slow_move(end, *, interval=EVERY, group=None):
    def move(t, weights, grads, mask):
        if t % interval or t >= end:
            return None
        out = {}
        for name, m in mask.items():
            k = round(fraction(t, end) * int(m.sum()))
            kept = mo.drop_lowest(m, np.abs(weights[name]), k)
            size = np.abs(grads[name])
            out[name] = grow_groups(kept, size, *group) if group else mo.grow_highest(kept, size, k)
        return out

    return move


def grow_groups(kept, scores, n, m):
    """Each column, cut into groups of m rows, gets its best until it has n."""
    out = kept.copy()
    for column in range(kept.shape[1]):
        for row in range(0, kept.shape[0], m):
            part = slice(row, row + m)
            lacking = n - int(kept[part, column].sum())
            out[part, column] = mo.grow_highest(kept[part, column], scores[part, column], lacking)
    return out


@functools.cache
def usual():
    return make()


def make(**options):
    arguments = {"key": KEY, "total_steps": mo.STEPS, "interval": EVERY, "drop_fraction": ALPHA}
    sparsity = options.pop("sparsity", 0.6)
    return rigl(mo.inner(), sparsity, **(arguments | options))


def test_one_move_by_hand():
    # Kept after the first step: 4, 1, -3, 2 at indices 0 to 3. T_end = 6: f(3) = 1/2 of them go.
    params = {"kernel": jnp.array([[4.0, 1.0, -3.0, 2.0, 9.0, 9.0, 9.0, 9.0]])}
    mask = {"kernel": jnp.array([[True] * 4 + [False] * 4])}
    tx = rigl(optax.sgd(1.0, 0.5), 0.5, key=KEY, total_steps=8, interval=3, drop_fraction=1.0)
    state = set_mask(tx.init(params), mask)
    grads = {"kernel": jnp.array([[0.0, 0.0, 0.0, 0.0, 7.0, 7.0, 7.0, 7.0]])}
    step = mo.stepper(tx)
    for _ in range(2):
        params, state = step(grads, state, params)
    last = {"kernel": jnp.array([[50.0, 5.0, 60.0, 0.0, 1.0, -6.0, 2.0, 3.0]])}
    params, state = step(last, state, params)
    # 1 and 2 are dropped; among them and the right half, 6 and 5 are the largest gradients: the
    # weight 1 comes back at once with its value. No step is taken.
    np.testing.assert_array_equal(get_mask(state)["kernel"], [[1, 1, 1, 0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(params["kernel"], [[4.0, 1.0, -3.0, 0, 0, 0, 0, 0]])
    assert not jax.tree.leaves(state.inner_state)[0].any()


def test_forty_steps_follow_the_definition():
    seen = mo.assert_follows(usual(), mo.start(), slow_move(30), instead_of_step=True)
    moved = [any((seen[t][k] != seen[t - 1][k]).any() for k in mo.SHAPES) for t in range(1, 41)]
    assert [t for t, m in enumerate(moved, start=1) if m] == [
        4,
        8,
        12,
        16,
        20,
        24,
    ]  # at 28 f rounds to 0
    kept = [{k: int(m.sum()) for k, m in masks.items()} for masks in seen]
    assert all(counts == kept[0] for counts in kept)
    assert sum(kept[0].values()) == 80 - round(0.6 * 80)


def test_forty_steps_with_the_step_taken_too():
    mo.assert_follows(make(step_too=True, end_step=40), mo.start(), slow_move(40))


def test_forty_steps_of_n_m():
    tx = make(sparsity=None, pattern=jp.masks.nm(1, 2, axis=0))
    seen = mo.assert_follows(tx, mo.start(), slow_move(30, group=(1, 2)), instead_of_step=True)
    for masks in seen:
        for m in masks.values():
            assert (m.reshape(-1, 2, m.shape[1]).sum(1) == 1).all()
    assert (seen[0]["a"] != seen[-1]["a"]).any()


def test_equal_values_are_counted_exactly():
    params = {"kernel": jnp.ones((8, 8))}
    tx = rigl(optax.sgd(0.0), 0.5, key=KEY, total_steps=20, interval=5, drop_fraction=0.5)
    state, step = tx.init(params), mo.stepper(tx)
    before = np.asarray(get_mask(state)["kernel"])
    for _ in range(5):
        _, state = step({"kernel": jnp.ones((8, 8))}, state, params)
    k = round(fraction(5, 15) * 32)
    expected = mo.grow_highest(mo.drop_lowest(before, np.ones((8, 8)), k), np.ones((8, 8)), k)
    np.testing.assert_array_equal(get_mask(state)["kernel"], expected)


@pytest.mark.parametrize(
    "pattern", [None, pytest.param(jp.masks.nm(2, 4, axis=0), marks=pytest.mark.slow)]
)
def test_kept_weights_stay_whatever_the_gradients(pattern):
    params = {"kernel": jnp.arange(1.0, 65.0).reshape(8, 8)}
    sparsity = 0.5 if pattern is None else None
    tx = rigl(optax.sgd(0.0), sparsity, key=KEY, total_steps=20, interval=1, pattern=pattern)
    state = tx.init(params)
    before = np.asarray(get_mask(state)["kernel"])
    bad = jnp.full((8, 8), jnp.nan).at[::2].set(jnp.inf)
    moved, state = mo.stepper(tx)({"kernel": bad}, state, params)
    after = np.asarray(get_mask(state)["kernel"])
    k = round(fraction(1, 15, 0.3) * 32)
    surviving = mo.drop_lowest(before, np.asarray(params["kernel"]), k)
    assert after[surviving].all()
    assert after.sum() == 32
    assert np.isfinite(moved["kernel"]).all()


def test_growth_by_gradients_of_another_batch():
    def grow(params, other):
        return {"kernel": jnp.abs(other["kernel"])}

    params = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}
    tx = rigl(optax.sgd(0.1), 0.5, key=KEY, total_steps=8, interval=3, drop_fraction=1.0, grow=grow)
    mask = {"kernel": jnp.array([[True] * 4, [False] * 4])}
    state, step = set_mask(tx.init(params), mask), mo.stepper(tx)
    zero = {"kernel": jnp.zeros((2, 4))}
    other = {"kernel": jnp.array([[0.0, 0, 0, 0], [0, 2, 0, 1]])}
    for _ in range(3):
        _, state = step(zero, state, params, other=other)
    np.testing.assert_array_equal(get_mask(state)["kernel"], [[0, 0, 1, 1], [0, 1, 0, 1]])
    with pytest.raises(ValueError, match=r"'other', which update did not get"):
        tx.update(zero, tx.init(params), params)


def test_dropping_by_other_scores():
    def drop(params, grads):
        return {"kernel": jnp.abs(params["kernel"] * grads["kernel"])}

    params = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}
    tx = rigl(
        optax.sgd(0.0), 0.5, key=KEY, total_steps=8, interval=3, drop_fraction=1.0, scores=drop
    )
    state = set_mask(tx.init(params), {"kernel": jnp.array([[True] * 4, [False] * 4])})
    step = mo.stepper(tx)
    for _ in range(3):
        _, state = step({"kernel": jnp.array([[8.0, 3, 1, 1], [9, 9, 0, 0]])}, state, params)
    # w * g = 8 6 3 4: the last two go.
    np.testing.assert_array_equal(get_mask(state)["kernel"], [[1, 1, 0, 0], [1, 1, 0, 0]])


def test_a_mask_set_from_outside_goes_back_to_the_counts():
    params = {"kernel": jnp.arange(1.0, 65.0).reshape(8, 8)}
    tx = rigl(optax.sgd(0.1), 0.5, key=KEY, total_steps=20, interval=1)
    step = mo.stepper(tx)
    for kept in (10, 50):
        mask = {"kernel": (jnp.arange(64) < kept).reshape(8, 8)}
        state = set_mask(tx.init(params), mask)
        _, state = step({"kernel": jnp.ones((8, 8))}, state, params)
        assert int(get_mask(state)["kernel"].sum()) == 32


WITHIN = {"kernel": (jnp.arange(64) % 7 < 2).reshape(8, 8)}  # 19 of 64


def one_move(tx, scale=1.0):
    params = {"kernel": jnp.arange(1.0, 65.0).reshape(8, 8)}
    state = tx.init(params)
    first = get_mask(state)["kernel"]
    grads = {"kernel": scale * jnp.cos(jnp.arange(64.0)).reshape(8, 8)}
    _, state = mo.stepper(tx)(grads, state, params)
    return np.asarray(first), np.asarray(get_mask(state)["kernel"])


def test_within_a_mask_of_ones_own_its_counts_hold():
    tx = rigl(optax.sgd(0.1), None, key=KEY, within=WITHIN, total_steps=20, interval=1)
    first, after = one_move(tx)
    np.testing.assert_array_equal(first, WITHIN["kernel"])
    k = round(fraction(1, 15, 0.3) * 19)
    kept = mo.drop_lowest(first, np.arange(1.0, 65.0).reshape(8, 8), k)
    size = np.abs(np.cos(np.arange(64, dtype=np.float32))).reshape(8, 8)
    np.testing.assert_array_equal(after, mo.grow_highest(kept, size, k))


@pytest.mark.parametrize(
    ("pattern", "within"),
    [
        pytest.param(jp.masks.nm(2, 4, axis=0), np.tile([[True], [False]], (4, 8)), id="2:4"),
        pytest.param(
            jp.masks.block(2, 2),
            np.kron(np.eye(4), np.ones((2, 2))) > 0,
            id="blocks",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_within_a_mask_that_has_a_pattern(pattern, within):
    rules = {"key": KEY, "total_steps": 20, "interval": 1, "drop_fraction": 0.6}
    tx = rigl(optax.sgd(0.1), None, within={"kernel": within}, pattern=pattern, **rules)
    first, after = one_move(tx)
    np.testing.assert_array_equal(first, within)
    assert after.sum() == within.sum()
    assert (after != first).any()
    jp.masks.check({"kernel": after}, pattern)


def test_within_is_refused_beside_other_counts():
    options = {"key": KEY, "total_steps": 20, "interval": 1, "within": WITHIN}
    with pytest.raises(ValueError, match=r"rigl keeps the counts of within=; got sparsity=0.5"):
        rigl(optax.sgd(0.1), 0.5, **options)
    with pytest.raises(ValueError, match=r"keeps the counts of within=.* and allocation=<func"):
        rigl(optax.sgd(0.1), None, allocation=jp.masks.erk(), **options)
    with pytest.raises(ValueError, match=r"'kernel' is not 1:2 along axis 0"):
        rigl(optax.sgd(0.1), None, pattern=jp.masks.nm(1, 2, axis=0), **options)
    with pytest.raises(TypeError, match=r"'kernel' has dtype float32"):
        rigl(optax.sgd(0.1), None, **(options | {"within": {"kernel": jnp.ones((8, 8))}}))
    with pytest.raises(ValueError, match=r"another tree"):
        rigl(optax.sgd(0.1), None, **options).init({"weight": jnp.ones((8, 8))})
    more = {"kernel": jnp.ones((8, 8)), "other": {"w": jnp.ones((4, 4))}}
    tx = rigl(optax.sgd(0.1), None, **(options | {"within": {**WITHIN, "other": {"w": None}}}))
    with pytest.raises(ValueError, match=r"disagree on what is prunable, first at 'other/w'"):
        tx.init(more)

    def traced(m):
        return rigl(optax.sgd(0.1), None, **(options | {"within": m}))

    with pytest.raises(ValueError, match=r"within= is a concrete mask; got a traced one"):
        jax.eval_shape(traced, WITHIN)


def test_grow_may_return_other_containers():
    def grow(params, grads):
        return FrozenDict(jax.tree.map(jnp.abs, {**grads, "bias": optax.MaskedNode()}))

    params = {"bias": jnp.ones(8), "kernel": jnp.arange(1.0, 65.0).reshape(8, 8)}
    grads = {"bias": jnp.ones(8), "kernel": jnp.cos(jnp.arange(64.0)).reshape(8, 8)}

    def masks(**options):
        tx = rigl(optax.sgd(0.1), 0.5, key=KEY, total_steps=20, interval=1, **options)
        return get_mask(mo.stepper(tx)(grads, tx.init(params), params)[1])["kernel"]

    np.testing.assert_array_equal(masks(grow=grow), masks())

    def rows(params, grads):
        return {"bias": None, "kernel": jnp.abs(grads["kernel"][:4])}

    with pytest.raises(ValueError, match=r"scores of rigl have shape \(4, 8\) at 'kernel'"):
        masks(grow=rows)


def test_blocks_move_whole():
    params = {"kernel": jnp.arange(1.0, 65.0).reshape(8, 8)}
    tx = rigl(
        optax.sgd(0.1), 0.5, key=KEY, total_steps=20, interval=1, pattern=jp.masks.block(2, 2)
    )
    state = tx.init(params)
    before = get_mask(state)["kernel"]
    grads = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)}
    _, state = mo.stepper(tx)(grads, state, params)
    after = np.asarray(get_mask(state)["kernel"])
    blocks = after.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 4)
    assert set(blocks.sum(1).tolist()) == {0, 4}
    assert after.sum() == 32
    assert (after != before).any()


def test_frozen_it_stays_and_steps():
    tx, params = usual(), mo.start()
    state = freeze(tx.init(params))
    first = mo.kernels(get_mask(state))
    (_, end), (path, masks) = mo.train(tx, params, state, mo.data())
    for k in mo.SHAPES:
        assert (np.asarray(masks[k]["kernel"]) == first[k]).all()
    assert int(end.step) == mo.STEPS
    weights = np.asarray(path["a"]["kernel"])
    assert (weights[EVERY - 1] != weights[EVERY - 2]).any()


@pytest.mark.slow
def test_one_program_gives_what_plain_python_gives():
    assert_same_with_and_without_jit(usual(), at=EVERY)


@pytest.mark.slow
def test_the_same_masks_on_eight_devices():
    masks = assert_same_when_sharded(make(total_steps=12, interval=2), steps=4)
    assert all((masks[0][k]["kernel"] != masks[4][k]["kernel"]).any() for k in "ab")


@pytest.mark.parametrize("name", each_case("adafactor", "under_multisteps"))
def test_around_other_optimizers(name):
    tx = functools.partial(rigl, sparsity=0.7, **CASE)
    run_case(name, tx, due=range(3, 18, 3), instead_of_step=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"interval": 40}, r"rigl never moves its mask: interval=40 .* step 30"),
        ({"end_step": 41}, r"end_step=41 of rigl lies after the end of training, total_steps=40"),
        ({"end_step": 4}, r"never moves its mask"),
        ({"interval": 0}, r"interval is 0, but must be at least 1"),
        ({"drop_fraction": -0.5}, r"drop_fraction is .* in \[0, 1\]; got -0.5"),
        ({"drop_fraction": 1.5}, r"in \[0, 1\]; got 1.5"),
        ({"sparsity": 1.0}, r"sparsity is 1.0, but a fraction"),
        ({"sparsity": 60}, r"pass 0.6"),
    ],
)
def test_bad_values(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key": 0}, r"rigl draws its first mask from a JAX random key; got key=0"),
        ({"key": jax.random.split(KEY)}, r"JAX random key; got key=key<fry>\[2\]"),
        ({"interval": 1.5}, r"interval must be a static Python integer"),
        ({"total_steps": "40"}, r"total_steps must be a static Python integer"),
        ({"drop_fraction": "0.3"}, r"drop_fraction must be a static number"),
        ({"sparsity": "0.3"}, r"sparsity must be a static number"),
        ({"grow": {"a": 1}}, r"scores must be a function"),
    ],
)
def test_arguments_of_the_wrong_kind(options, match):
    with pytest.raises(TypeError, match=match):
        make(**options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pattern": jp.masks.nm(1, 2, axis=0)}, r"1:2 pattern fixes the sparsity, 0.5; got 0.6"),
        ({"allocation": jp.masks.globally()}, r"counts 'a/kernel' and 'b/kernel' together"),
        ({"drop_fraction": 0.001}, r"rigl never moves a weight: .* 0.0009\d+, less than half"),
        ({"where": lambda path, leaf: False}, r"no prunable leaf"),
        ({"sparsity": None}, r"sparsity"),
    ],
)
def test_bad_fits_are_found_by_init(options, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make(**options).init(mo.start())
