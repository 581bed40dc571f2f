"""AC/DC against its definition."""

import functools

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
from transform_cases import relaxed

import jaxprune as jp
from jaxprune.transforms import ac_dc, freeze, get_mask
from jaxprune.transforms._ac_dc import _phases

PHASES = {"total_steps": 40, "warmup_steps": 4, "compressed_steps": 5, "final_steps": 12}


def make(sparsity=0.6, inner=None, **options):
    return ac_dc(inner or mo.inner(), sparsity, **(PHASES | options))


def lowest_of_all(weights, sparsity):
    """The magnitude mask of the whole network, by a sort."""
    flat = sorted(
        (abs(float(x)), i, name)
        for name, w in sorted(weights.items())
        for i, x in enumerate(w.ravel())
    )
    masks = {name: np.ones(w.size, bool) for name, w in weights.items()}
    for _, i, name in flat[: round(sparsity * len(flat))]:
        masks[name][i] = False
    return {name: m.reshape(weights[name].shape) for name, m in masks.items()}


def slow_move(t, weights, grads, mask):
    if t in (4, 14, 28):
        return lowest_of_all(weights, 0.6)
    if t in (9, 19):
        return {name: np.ones_like(m) for name, m in mask.items()}
    return None


@pytest.mark.parametrize("reset", [pytest.param(False, marks=pytest.mark.slow), True])
def test_forty_steps_follow_the_definition(reset):
    # Compressed 5-9 and 15-19, decompressed 10-14 and 20-28, compressed 29-40.
    tx, forget = (make(), (9, 19)) if reset else (make(reset_moments=False), ())
    seen = mo.assert_follows(tx, mo.start(), slow_move, forget=forget)
    kept = [sum(int(m.sum()) for m in masks.values()) for masks in seen]
    dense, sparse = 80, 80 - round(0.6 * 80)
    phases = [dense] * 4 + [sparse] * 5 + [dense] * 5 + [sparse] * 5 + [dense] * 9 + [sparse] * 13
    assert kept == phases
    # Masks are not nested: weights come back.
    assert any((seen[14][k] & ~seen[4][k]).any() for k in mo.SHAPES)


@pytest.mark.parametrize(
    ("total", "warmup", "compressed", "decompressed", "final", "expected"),
    [
        # The schedule of the paper, in epochs.
        (100, 10, 5, 5, 15, (*range(10, 80, 5), 85)),
        (10, 1, 2, 3, 4, (1, 3, 6)),  # exactly fits
        (10, 1, 2, 3, 1, (1, 3, 9)),  # dense from 3 to 9: another compressed phase needs 11
        (12, 1, 2, 3, 1, (1, 3, 6, 8, 11)),
    ],
)
def test_phases(total, warmup, compressed, decompressed, final, expected):
    assert _phases(total, warmup, compressed, decompressed, final) == expected


BY_HAND = {
    # Updates are 1, 1.5, 1.75, ... from where momentum begins. The mask moves after steps 1, 2, 5.
    False: [
        [0.0, 0.0, 4.0, 5.0],
        [0.0, 0.0, 5.5, 6.5],
        [1.0, 1.0, 7.25, 8.25],
        [2.5, 2.5, 9.125, 10.125],
        [0.0, 0.0, 11.0625, 12.0625],
    ],
    # All begin anew after step 2.
    True: [
        [0.0, 0.0, 4.0, 5.0],
        [0.0, 0.0, 5.5, 6.5],
        [1.0, 1.0, 6.5, 7.5],
        [2.5, 2.5, 8.0, 9.0],
        [0.0, 0.0, 9.75, 10.75],
    ],
}


@pytest.mark.parametrize("reset", [False, True])
def test_what_comes_back_starts_from_zero_with_fresh_moments(reset):
    params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    tx = make(
        0.5,
        optax.sgd(1.0, 0.5),
        total_steps=8,
        warmup_steps=1,
        compressed_steps=1,
        decompressed_steps=2,
        final_steps=3,
        reset_moments=reset,
    )
    state, step, rows = tx.init(params), mo.stepper(tx), []
    for _ in range(5):
        params, state = step({"kernel": -jnp.ones((1, 4))}, state, params)
        rows.append(params["kernel"].tolist()[0])
    assert rows == BY_HAND[reset]


def two_steps(inner, freeze_after=None):
    """State and parameters where the first decompressed phase begins, and before."""
    tx = make(0.5, inner, total_steps=8, warmup_steps=1, compressed_steps=1, final_steps=3)
    params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]]), "bias": jnp.ones(4)}
    grads = {"kernel": -jnp.ones((1, 4)), "bias": jnp.full(4, 2.0)}
    state, step, seen = tx.init(params), mo.stepper(tx), []
    for t in range(2):
        params, state = step(grads, freeze(state) if t == freeze_after else state, params)
        seen.append((params, state.inner_state))
    return seen


def test_counts_go_on_where_all_moments_begin_anew():
    (_, before), (_, after) = two_steps(relaxed(optax.adam(0.1)))
    assert all(np.any(x) for x in jax.tree.leaves(before))
    assert int(after[0].count) == 2
    assert not any(np.any(x) for x in jax.tree.leaves((after[0].mu, after[0].nu)))
    (_, _), (_, frozen) = two_steps(relaxed(optax.adam(0.1)), freeze_after=1)
    assert all(np.any(x) for x in jax.tree.leaves((frozen[0].mu, frozen[0].nu)))


def test_weights_that_an_optimizer_keeps_do_not_begin_at_zero():
    inner = optax.contrib.schedule_free_sgd(0.1)
    _, (params, state) = two_steps(relaxed(inner))
    assert np.any(params["kernel"] == 0)
    jax.tree.map(np.testing.assert_array_equal, state.z, params)


@pytest.mark.parametrize("pattern", [jp.masks.nm(1, 2, axis=0), jp.masks.block(2, 2)])
def test_patterns(pattern):
    sparsity = None if pattern("a", jnp.ones((2, 2))).kept else 0.5
    tx = make(sparsity, pattern=pattern, compressed_steps=2, warmup_steps=1)
    state, params, step = tx.init(mo.start()), mo.start(), mo.stepper(tx)
    params, state = step(mo.start(1), state, params)
    for m in jax.tree.leaves(get_mask(state)):
        assert m.sum() == m.size // 2 or sparsity
        if sparsity is None:
            assert (m.reshape(-1, 2, m.shape[1]).sum(1) == 1).all()
        else:
            blocks = m.reshape(m.shape[0] // 2, 2, -1, 2).sum((1, 3))
            assert set(np.asarray(blocks).ravel().tolist()) <= {0, 4}


def test_frozen_in_a_compressed_phase_it_stays_sparse():
    tx, params = make(), mo.start()
    batches = tuple(b[:8] for b in mo.data())
    (params, state), _ = mo.train(tx, params, tx.init(params), batches)
    before = get_mask(state)
    (_, state), _ = mo.train(tx, params, freeze(state), batches)
    assert int(state.step) == 16
    jax.tree.map(np.testing.assert_array_equal, before, get_mask(state))
    assert not all(bool(m.all()) for m in jax.tree.leaves(before))


@pytest.mark.slow
def test_one_program_gives_what_plain_python_gives():
    assert_same_with_and_without_jit(make(), at=4)


@pytest.mark.slow
def test_the_same_masks_on_eight_devices():
    tx = make(total_steps=6, warmup_steps=1, compressed_steps=2, final_steps=1)
    masks = assert_same_when_sharded(tx, steps=5)
    assert all((masks[1][k]["kernel"] != masks[5][k]["kernel"]).any() for k in "ab")


@pytest.mark.parametrize("name", each_case("schedule_free", "under_multisteps"))
def test_around_other_optimizers(name):
    options = {"total_steps": 24, "warmup_steps": 3, "compressed_steps": 4, "final_steps": 5}
    tx = functools.partial(ac_dc, sparsity=0.6, **options)
    run_case(name, tx, due=(3, 7, 11, 15, 19), counts_constant=False)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"final_steps": 27},
            r"no compressed phase fits: 4 .* 5 .* 5 .* 27 are 41, more than .*40",
        ),
        ({"decompressed_steps": 20}, r"no compressed phase fits"),
        ({"warmup_steps": 0}, r"warmup_steps is 0, but must be at least 1"),
        ({"compressed_steps": 0}, r"compressed_steps is 0, but must be at least 1"),
        ({"final_steps": 0}, r"final_steps is 0, but must be at least 1"),
        ({"sparsity": -0.5}, r"sparsity is -0.5, but a fraction"),
    ],
)
def test_bad_values(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_arguments_of_the_wrong_kind():
    with pytest.raises(TypeError, match=r"warmup_steps must be a static Python integer"):
        make(warmup_steps=1.0)
    with pytest.raises(TypeError, match=r"reset_moments is True or False; got 1"):
        make(reset_moments=1)
    with pytest.raises(TypeError, match=r"scores must be a function"):
        make(scores={"a": 1})


def test_weights_sparser_than_the_target_are_refused():
    params = mo.start()
    params["a"]["kernel"] = params["a"]["kernel"].at[1:].set(0.0)
    params["b"]["kernel"] = params["b"]["kernel"].at[1:].set(0.0)
    with pytest.raises(ValueError, match=r"ac_dc is to prune to sparsity 0.6, but 68 of the 80"):
        make().init(params)


def test_scores_in_other_containers_do():
    def scores(params):
        return FrozenDict(jp.scores.magnitude(params))

    def masks(**options):
        tx = make(warmup_steps=1, compressed_steps=2, **options)
        return get_mask(mo.stepper(tx)(mo.start(1), tx.init(mo.start()), mo.start())[1])

    jax.tree.map(np.testing.assert_array_equal, masks(scores=scores), masks())


def test_bad_fits_are_found_by_init():
    with pytest.raises(ValueError, match=r"1:2 pattern fixes the sparsity, 0.5; got 0.6"):
        make(pattern=jp.masks.nm(1, 2, axis=0)).init(mo.start())
    with pytest.raises(ValueError, match=r"no prunable leaf"):
        make(where=lambda path, leaf: False).init(mo.start())
