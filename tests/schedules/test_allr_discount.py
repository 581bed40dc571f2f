"""The discount of ALLR."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxprune.schedules import allr_discount, allr_ratio

BUDGET = {"pretraining_steps": 160, "retraining_steps": 16}
PARAMS = {"w": jnp.array([3.0, 4.0])}
SMALL_GONE = {"w": jnp.array([0.0, 4.0])}
LARGE_GONE = {"w": jnp.array([3.0, 0.0])}


def test_by_hand():
    d = allr_discount(PARAMS, SMALL_GONE, pruned_fraction=0.5, **BUDGET)
    assert d.dtype == jnp.float32
    assert d.shape == ()
    assert abs(float(d) - 0.84853) < 1e-5  # 3 / 5 / √(1/2)


def test_d2_is_a_floor():
    floor = {"pretraining_steps": 160, "retraining_steps": 144}
    d = allr_discount(PARAMS, SMALL_GONE, pruned_fraction=0.5, **floor)
    assert d == jnp.float32(0.9)
    long = {"pretraining_steps": 160, "retraining_steps": 1000}
    assert allr_discount(PARAMS, SMALL_GONE, pruned_fraction=0.5, **long) == 1


@pytest.mark.parametrize("s", [0, 0.0, 0.5])
def test_d2_is_all_where_nothing_is_pruned(s):
    assert allr_ratio(PARAMS, PARAMS, pruned_fraction=s) == 0
    assert allr_discount(PARAMS, PARAMS, pruned_fraction=s, **BUDGET) == jnp.float32(0.1)


def test_zero_parameters():
    zeros = {"w": jnp.zeros(2)}
    assert allr_ratio(zeros, zeros, pruned_fraction=0.5) == 0
    assert allr_discount(zeros, zeros, pruned_fraction=0.0, **BUDGET) == jnp.float32(0.1)


def test_removing_the_largest_needs_the_clip():
    ratio = allr_ratio(PARAMS, LARGE_GONE, pruned_fraction=0.5)
    assert abs(float(ratio) - 4 / 5 * math.sqrt(2)) < 1e-5
    assert allr_discount(PARAMS, LARGE_GONE, pruned_fraction=0.5, **BUDGET) == 1


def test_all_floating_leaves_count():
    params = {"k": jnp.array([[3.0, 4.0]]), "scale": jnp.full(3, 5.0), "n": jnp.array([7, 7])}
    pruned = params | {"k": jnp.array([[0.0, 4.0]])}
    ratio = allr_ratio(params, pruned, pruned_fraction=0.5)
    assert abs(float(ratio) - 3 / 10 * math.sqrt(2)) < 1e-5
    part = allr_ratio({"k": params["k"]}, {"k": pruned["k"]}, pruned_fraction=0.5)
    assert abs(float(part) - 0.84853) < 1e-5


def test_equals_the_difference_of_squares():
    w = np.random.default_rng(0).normal(size=1000)
    kept = np.abs(w) > np.median(np.abs(w))
    squares = abs(np.sum(w**2) - np.sum((w * kept) ** 2))
    expected = math.sqrt(squares) / math.sqrt(np.sum(w**2)) / math.sqrt(0.5)
    before, after = jnp.asarray(w, jnp.float32), jnp.asarray(w * kept, jnp.float32)
    np.testing.assert_allclose(allr_ratio(before, after, pruned_fraction=0.5), expected, rtol=1e-5)


def test_a_small_prune_does_not_cancel():
    # ‖θ‖² - ‖θᵖ‖² would be 0 in float32.
    before = jnp.array([1000.0, 0.1])
    ratio = allr_ratio(before, before.at[1].set(0.0), pruned_fraction=0.5)
    np.testing.assert_allclose(ratio, 1e-4 * math.sqrt(2), rtol=1e-5)


def test_half_precision_is_summed_in_float32():
    w = jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.bfloat16)
    exact = np.asarray(w, np.float64)
    kept = np.abs(exact) > np.quantile(np.abs(exact), 0.9)
    expected = np.linalg.norm(exact[~kept]) / np.linalg.norm(exact) / math.sqrt(0.9)
    after = jnp.where(kept, w, jnp.zeros_like(w))
    ratio = allr_ratio(w, after, pruned_fraction=0.9)
    assert ratio.dtype == jnp.float32
    np.testing.assert_allclose(ratio, expected, rtol=1e-5)


def test_half_precision_is_subtracted_in_float32():
    # 1.015625 - 2**-8 rounds to 1.015625 or 1.0078125 in bfloat16.
    before = jnp.array([1.015625], jnp.bfloat16)
    after = jnp.array([2.0**-8], jnp.bfloat16)
    expected = (1.015625 - 2.0**-8) / 1.015625
    np.testing.assert_allclose(allr_ratio(before, after, pruned_fraction=1.0), expected, rtol=1e-6)
    # Neither dtype decides for the other.
    mixed = allr_ratio(before, after.astype(jnp.float32), pruned_fraction=1.0)
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def test_arrays_of_numpy_are_taken():
    before, after = np.array([3.0, 4.0]), np.array([0.0, 4.0])
    ratio = allr_ratio(before, after, pruned_fraction=np.float64(0.5))
    assert ratio.dtype == jnp.float32
    assert abs(float(ratio) - 0.84853) < 1e-5


def test_under_jit_with_a_traced_fraction():
    def discount(before, after, s):
        return allr_discount(before, after, pruned_fraction=s, **BUDGET)

    d = jax.jit(discount)(PARAMS, SMALL_GONE, jnp.float32(0.5))
    assert abs(float(d) - 0.84853) < 1e-5
    assert jax.jit(discount)(PARAMS, PARAMS, jnp.float32(0.0)) == jnp.float32(0.1)


WEIGHTS = hnp.arrays(
    np.float32,
    st.sampled_from([2, 3, 10, 40]),
    elements=st.floats(-100, 100, width=32).filter(lambda x: x),
)


@given(w=WEIGHTS, data=st.data())
def test_magnitude_pruning_of_one_pool_needs_no_clip(w, data):
    w[np.abs(w) < 1e-3] = 1e-3
    removed = data.draw(st.integers(1, len(w)))
    pruned = w.copy()
    pruned[np.argsort(np.abs(w), kind="stable")[:removed]] = 0
    ratio = float(allr_ratio(w, pruned, pruned_fraction=removed / len(w)))
    assert 0 < ratio <= 1 + 1e-6


@given(w=WEIGHTS)
def test_removing_the_largest_alone_reaches_one_or_more(w):
    w[np.abs(w) < 1e-3] = 1e-3
    pruned = w.copy()
    largest = np.argmax(np.abs(w))
    pruned[largest] = 0
    ratio = float(allr_ratio(w, pruned, pruned_fraction=1 / len(w)))
    assert ratio >= 1 - 1e-6
    if np.partition(np.abs(w), -2)[-2] < 0.9 * np.abs(w).max():
        assert ratio > 1


@given(st.integers(0, 2**32 - 1))
def test_random_pruning_needs_the_clip_for_one_of_two_halves(seed):
    # A random half and its complement: the squares of their d1 add up to 2, so unless the halves
    # weigh the same one of them passes 1.
    generator = np.random.default_rng(seed)
    w = generator.normal(size=10).astype(np.float32)
    half = generator.permutation(10) < 5
    ratios = [
        float(allr_ratio(w, np.where(gone, np.float32(0), w), pruned_fraction=0.5))
        for gone in (half, ~half)
    ]
    np.testing.assert_allclose(np.square(ratios).sum(), 2, rtol=1e-5)
    assert max(ratios) > 1
    discount = allr_discount(
        w,
        np.where(half if ratios[0] > 1 else ~half, np.float32(0), w),
        pruned_fraction=0.5,
        pretraining_steps=10,
        retraining_steps=1,
    )
    assert float(discount) == 1


def test_errors():
    with pytest.raises(ValueError, match=r"pruned_fraction is 1\.5, but must lie in \[0, 1\]"):
        allr_ratio(PARAMS, SMALL_GONE, pruned_fraction=1.5)
    with pytest.raises(ValueError, match=r"pruned_fraction is -0\.5"):
        allr_ratio(PARAMS, SMALL_GONE, pruned_fraction=-0.5)
    with pytest.raises(ValueError, match="pruned_fraction is nan"):
        allr_ratio(PARAMS, SMALL_GONE, pruned_fraction=float("nan"))
    with pytest.raises(TypeError, match=r"pruned_fraction must be a scalar, but it is '0\.5'"):
        allr_ratio(PARAMS, SMALL_GONE, pruned_fraction="0.5")
    with pytest.raises(TypeError, match="pruned_fraction must be a scalar"):
        allr_ratio(PARAMS, SMALL_GONE, pruned_fraction=jnp.ones(2))
    with pytest.raises(
        ValueError, match="the pruned tree is of another tree: it has 'v' where 'w'"
    ):
        allr_ratio(PARAMS, {"v": jnp.zeros(2)}, pruned_fraction=0.5)
    with pytest.raises(ValueError, match=r"shape \(3,\) at 'w'"):
        allr_ratio(PARAMS, {"w": jnp.zeros(3)}, pruned_fraction=0.5)
    for absent in (None, optax.MaskedNode()):
        with pytest.raises(ValueError, match=r"only one of .* has a leaf at 'w'"):
            allr_ratio(PARAMS, {"w": absent}, pruned_fraction=0.5)
    with pytest.raises(TypeError, match="retraining_steps must be a static Python integer"):
        allr_discount(
            PARAMS, PARAMS, pruned_fraction=0.5, pretraining_steps=160, retraining_steps=16.0
        )


def test_partial_trees_on_both_sides():
    before = {"w": PARAMS["w"], "b": None}
    after = {"w": SMALL_GONE["w"], "b": optax.MaskedNode()}
    assert abs(float(allr_ratio(before, after, pruned_fraction=0.5)) - 0.84853) < 1e-5
