"""Sparse evolutionary training against its definition."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import pytest
from moving_checks import (
    assert_same_when_sharded,
    assert_same_with_and_without_jit,
    run_case,
)

import jaxprune as jp
from jaxprune.masks._by_sign import _share, drop_by_sign
from jaxprune.transforms import freeze, get_mask, set_, set_mask

KEY = jax.random.key(5)
EVERY, ZETA = 6, 0.4


@functools.cache
def usual():
    return make()


def make(**options):
    arguments = {"key": KEY, "total_steps": mo.STEPS, "interval": EVERY, "drop_fraction": ZETA}
    return set_(mo.inner(), options.pop("sparsity", 0.6), **(arguments | options))


def drop_by_hand(mask, weights, fraction):
    """The original's: of each sign the share nearest to zero, and all that is zero."""
    flat = weights.ravel().tolist()
    there = np.flatnonzero(mask.ravel()).tolist()
    plus = sorted(i for i in there if flat[i] > 0)
    minus = sorted(i for i in there if flat[i] < 0)
    plus.sort(key=lambda i: flat[i])
    minus.sort(key=lambda i: -flat[i])
    out = np.zeros(len(flat), bool)
    for part in (plus, minus):
        out[part[round(fraction * len(part)) :]] = True
    return out.reshape(mask.shape)


class Recorder:
    """The oracle's growth is random in the library: it takes the masks the library drew.

    What it checks by itself: which weights had to go, how many came, and that all else stayed.
    """

    def __init__(self, tx, params, drop):
        state = tx.init(params)
        _, (_, masks) = mo.train(tx, params, state, mo.data())
        self.masks = {k: np.asarray(masks[k]["kernel"]) for k in mo.SHAPES}
        self.drop, self.times, self.grown = drop, [], []

    def __call__(self, t, weights, grads, mask):
        if t % EVERY or t >= mo.STEPS:
            return None
        self.times.append(t)
        out = {}
        for name, m in mask.items():
            kept, new = self.drop(m, weights[name]), self.masks[name][t - 1]
            assert new[kept].all()
            assert new.sum() == m.sum()
            self.grown.append(int((new & ~kept).sum()))
            out[name] = new
        return out


def smallest(mask, weights):
    return mo.drop_lowest(mask, np.abs(weights), round(ZETA * int(mask.sum())))


@pytest.mark.parametrize("by_sign", [False, True])
def test_forty_steps_follow_the_definition(by_sign):
    tx, params = make(by_sign=True) if by_sign else usual(), mo.start()
    drop = functools.partial(drop_by_hand, fraction=ZETA) if by_sign else smallest
    move = Recorder(tx, params, drop)
    seen = mo.assert_follows(tx, params, move)
    assert move.times == [6, 12, 18, 24, 30, 36]
    assert min(move.grown) > 0
    kept = [{k: int(m.sum()) for k, m in masks.items()} for masks in seen]
    assert all(counts == kept[0] for counts in kept)
    assert sum(kept[0].values()) == 80 - round(0.6 * 80)
    for t in range(1, mo.STEPS + 1):
        moved = any((seen[t][k] != seen[t - 1][k]).any() for k in mo.SHAPES)
        assert moved == (t in move.times)


def test_one_move_by_hand():
    # Position 4 is the only free one: after 1 (the smallest) goes, growth picks 4 or 1 again.
    params = {"kernel": jnp.array([[4.0, 1.0, -3.0, 2.0, 9.0]])}
    mask = {"kernel": jnp.array([[True] * 4 + [False]])}
    grads = {"kernel": jnp.array([[1.0, 0.0, 0.0, 0.0, 1.0]])}
    tx = set_(
        optax.sgd(1.0, 0.5),
        0.2,
        key=KEY,
        total_steps=2,
        interval=1,
        drop_fraction=0.25,
        allocation=jp.masks.uniform(),
    )
    start, step, outcomes = set_mask(tx.init(params), mask), mo.stepper(tx), set()
    for seed in range(8):
        after, state = step(grads, start._replace(key=jax.random.key(seed)), params)
        now = get_mask(state)["kernel"].tolist()[0]
        outcomes.add(now[1])
        assert now in ([True] * 4 + [False], [True, False, True, True, True])
        expected = [3.0, 1.0 if now[1] else 0.0, -3.0, 2.0, 0.0]
        np.testing.assert_array_equal(after["kernel"], [expected])
        (trace,) = jax.tree.leaves(state.inner_state)
        np.testing.assert_array_equal(trace, [[1, 0, 0, 0, 0]])
    assert outcomes == {False, True}


def test_growth_is_uniform_over_what_is_not_kept():
    params = {"kernel": jnp.arange(1.0, 401.0).reshape(20, 20)}
    tx = set_(optax.sgd(0.0), 0.5, key=KEY, total_steps=9, interval=1, drop_fraction=0.5)
    state, step = tx.init(params), mo.stepper(tx)
    counts = np.zeros((20, 20))
    for seed in range(30):
        start = state._replace(key=jax.random.fold_in(KEY, seed))
        _, after = step({"kernel": jnp.zeros((20, 20))}, start, params)
        counts += np.asarray(get_mask(after)["kernel"])
    kept = mo.drop_lowest(np.asarray(get_mask(state)["kernel"]), np.asarray(params["kernel"]), 100)
    assert (counts[kept] == 30).all()
    # 100 of 300 each time: 10 on average of 30, with a standard deviation of 2.6.
    assert counts[~kept].sum() == 3000
    assert counts[~kept].max() <= 25
    assert 1.8 < counts[~kept].std() < 3.4


@pytest.mark.parametrize("fraction", ["0.1", "0.25", "0.3", "0.5", "0.7", "0.123", "1"])
def test_shares_are_those_of_the_decimal_fraction(fraction):
    numbers = [*range(120), 2**24 + 1, 2**31 + 5, 2**32 - 1]
    limbs = jnp.asarray([[0, n] for n in numbers], jnp.uint32)
    share = functools.partial(_share, float(fraction))
    got = jax.jit(jax.vmap(share), compiler_options=mo.FAST)(limbs)
    assert [int(h) * 2**32 + int(low) for h, low in np.asarray(got)] == [
        round(Fraction(fraction) * n) for n in numbers
    ]


@functools.partial(jax.jit, static_argnums=2, compiler_options=mo.FAST)
def dropped(values, within, fraction):
    return drop_by_sign(values, fraction, within=within)


@pytest.mark.slow
def test_drop_by_sign_on_eight_devices():
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.normal(size=(16, 5)).round(1), jnp.float32)
    within = jnp.asarray(rng.random((16, 5)) < 0.8)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    spread = dropped(*jax.device_put((values, within), place), 0.3)
    np.testing.assert_array_equal(spread, dropped(values, within, 0.3))
    expected = drop_by_hand(np.asarray(within), np.asarray(values), 0.3)
    assert int(spread.sum()) == expected.sum()
    sizes = np.abs(np.asarray(values))
    assert sizes[np.asarray(spread)].sum() == pytest.approx(sizes[expected].sum())


def test_drop_by_sign_of_ties_zeros_nan_and_denormals():
    tiny = np.float32(1e-40)
    values = np.array([[2, 2, 2, 2, -1, -1, -5, 0, -0.0, np.nan, tiny, 7]], np.float32)
    within = np.ones_like(values, bool)
    within[0, 11] = False
    mask = dropped(jnp.asarray(values), jnp.asarray(within), 0.5)
    # 1e-40 and the first 2 go of the five positive (2.5 to even), -1 and -1 of three negative.
    np.testing.assert_array_equal(mask, [[0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0]])


def test_n_m_groups_stay_exact():
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32)}
    tx = set_(
        optax.sgd(0.1), None, key=KEY, total_steps=9, interval=1, pattern=jp.masks.nm(2, 4, axis=0)
    )
    state, step = tx.init(params), mo.stepper(tx)
    first = get_mask(state)["kernel"]
    for _ in range(4):
        params, state = step({"kernel": jnp.ones((8, 6))}, state, params)
        mask = np.asarray(get_mask(state)["kernel"])
        assert (mask.reshape(2, 4, 6).sum(1) == 2).all()
    assert (mask != first).any()


def test_within_a_mask_of_ones_own_its_counts_hold():
    within = {"kernel": (jnp.arange(64) % 7 < 2).reshape(8, 8)}  # 19 of 64
    params = {"kernel": jnp.arange(1.0, 65.0).reshape(8, 8)}
    options = {"key": KEY, "total_steps": 9, "interval": 1, "drop_fraction": 0.5}
    tx = set_(optax.sgd(0.0), None, within=within, **options)
    state = tx.init(params)
    np.testing.assert_array_equal(get_mask(state)["kernel"], within["kernel"])
    _, state = mo.stepper(tx)(params, state, params)
    after = np.asarray(get_mask(state)["kernel"])
    kept = mo.drop_lowest(np.asarray(within["kernel"]), np.asarray(params["kernel"]), 10)
    assert after[kept].all()
    assert after.sum() == 19
    assert (after != within["kernel"]).any()
    with pytest.raises(ValueError, match=r"set_ keeps the counts of within=; got sparsity=0.5"):
        set_(optax.sgd(0.0), 0.5, within=within, **options)


def test_frozen_it_stays():
    tx, params = usual(), mo.start()
    state = freeze(tx.init(params))
    first = mo.kernels(get_mask(state))
    _, (_, masks) = mo.train(tx, params, state, mo.data())
    for k in mo.SHAPES:
        assert (np.asarray(masks[k]["kernel"]) == first[k]).all()


@pytest.mark.slow
def test_one_program_gives_what_plain_python_gives():
    assert_same_with_and_without_jit(usual(), at=EVERY)


@pytest.mark.slow
def test_the_same_masks_on_eight_devices():
    masks = assert_same_when_sharded(make(interval=2), steps=2)
    assert all((masks[0][k]["kernel"] != masks[2][k]["kernel"]).any() for k in "ab")


@pytest.mark.parametrize(
    "name",
    [
        "lamb",
        "under_apply_if_finite",
        pytest.param("adam", marks=pytest.mark.slow),
        pytest.param("muon", marks=pytest.mark.slow),
        pytest.param("schedule_free", marks=pytest.mark.slow),
    ],
)
def test_around_other_optimizers(name):
    tx = functools.partial(set_, sparsity=0.7, key=KEY, total_steps=50, interval=7)
    run_case(name, tx, due=range(7, 50, 7))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"interval": 40}, r"set_ never moves its mask: interval=40 .* step 39"),
        ({"end_step": 41}, r"end_step=41 of set_ lies after the end of training, total_steps=40"),
        ({"end_step": 5}, r"never moves its mask: interval=6 .* step 5"),
        ({"total_steps": 0}, r"total_steps is 0, but must be at least 1"),
        ({"drop_fraction": -0.1}, r"in \[0, 1\]; got -0.1"),
        ({"sparsity": -0.5}, r"sparsity is -0.5, but a fraction"),
        ({"by_sign": True, "scores": jp.scores.magnitude}, r"leave out scores= and pattern="),
        ({"by_sign": True, "pattern": jp.masks.nm(1, 2, axis=0)}, r"leave out scores= and"),
    ],
)
def test_bad_values(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_arguments_of_the_wrong_kind():
    with pytest.raises(TypeError, match=r"set_ draws its first mask from .* got key=None"):
        make(key=None)
    with pytest.raises(TypeError, match=r"set_ wraps an optimizer"):
        set_(optax.sgd, 0.5, key=KEY, total_steps=9, interval=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"allocation": jp.masks.lamp()}, r"counts 'a/kernel' and 'b/kernel' together"),
        ({"drop_fraction": 0.01}, r"set_ never moves a weight: .* 0.01, less than half"),
        ({"pattern": jp.masks.nm(1, 4, axis=0), "sparsity": None}, r"groups of 4 do not divide"),
    ],
)
def test_bad_fits_are_found_by_init(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options).init(mo.start())
