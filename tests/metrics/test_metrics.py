"""Sparsity, stability, norm drop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune.metrics import _sparsity


def test_sparsity_overall_and_per_leaf():
    mask = {"a": jnp.array([[True, False]]), "b": None, "c": jnp.zeros((6,), bool)}
    assert jp.sparsity(mask) == 7 / 8
    assert jp.metrics.counts(mask) == (1, 8)
    rows = jp.metrics.sparsity_per_leaf(mask)
    assert [(r.path, r.kept, r.size, r.sparsity) for r in rows] == [
        ("a", 1, 2, 0.5),
        ("c", 0, 6, 1.0),
    ]


def test_sparsity_is_exact_past_float32():
    # 2**24 + 1 kept weights are not a float32: a mean in float32 would miss the one.
    n = 2**24 + 1
    mask = {"w": jnp.ones((n + 1,), bool).at[0].set(False)}
    assert jp.metrics.counts(mask) == (n, n + 1)


# The way of leaves past 2**32 entries, with a limit that needs no such leaf.
@settings(max_examples=40)
@given(
    st.sampled_from([(3,), (17,), (4, 5), (2, 3, 4), (1, 40), (40, 1), (7, 1, 7)]),
    st.sampled_from([4, 6, 9, 64]),
    st.integers(0, 2**32 - 1),
)
def test_counts_of_large_leaves(shape, limit, seed):
    leaf = np.random.default_rng(seed).random(shape) < 0.7
    digits = _sparsity._jitted_digit_sums(jnp.asarray(leaf), limit)
    assert digits.shape == (4,)
    assert _sparsity.from_digits(np.asarray(digits)) == np.count_nonzero(leaf)


def test_partial_sums_are_added_past_two_to_the_32():
    # A uint32 total of these would be 0.
    digits = _sparsity._add_digits(jnp.full((2, 3), 2**31, jnp.uint32))
    assert _sparsity.from_digits(np.asarray(digits)) == 3 * 2**32
    values = np.random.default_rng(0).integers(0, 2**32, 1000, np.uint32)
    digits = _sparsity._add_digits(jnp.asarray(values))
    assert _sparsity.from_digits(np.asarray(digits)) == sum(map(int, values))


@pytest.mark.parametrize(
    ("shape", "partial_sums"),
    [((2**16, 2**16), 2**16), ((2**31, 2), 2), ((2**20, 3, 2**12), 2**12), ((5, 2**31, 2), 10)],
)
def test_few_partial_sums_none_of_which_can_wrap(shape, partial_sums):
    kept = _sparsity._kept_axes(shape, 2**32)
    assert math.prod(shape[i] for i in kept) == partial_sums
    assert math.prod(shape) // partial_sums < 2**32


@pytest.mark.parametrize("shape", [(2**32,), (2**33 + 1,), (2, 2**34), (2**17, 2**17)])
def test_large_leaves_compile(shape):
    abstract = jax.ShapeDtypeStruct(shape, bool)
    compiled = _sparsity._jitted_digit_sums.lower(abstract, 2**32).compile()
    assert compiled.out_info.shape == (4,)


def test_large_leaves_take_that_way(monkeypatch):
    monkeypatch.setattr(_sparsity, "_LIMIT", 10)
    monkeypatch.setattr(
        _sparsity, "_jitted_digit_sums", lambda x: _sparsity._digit_sums(x, limit=10)
    )
    mask = {"large": jnp.ones((7, 9), bool).at[2, 3].set(False), "small": jnp.ones((3,), bool)}
    assert jp.metrics.counts(mask) == (65, 66)
    mesh = Mesh(np.array(jax.devices()), ("x",))
    spread = jax.device_put(jnp.ones((8, 9), bool), NamedSharding(mesh, PartitionSpec("x")))
    assert jp.metrics.counts({"w": spread}) == (72, 72)


def test_norm_drop_and_stability():
    before, after = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 4.0])}
    assert float(jp.metrics.relative_norm_drop(before, after)) == pytest.approx(0.6)
    assert float(jp.metrics.relative_norm_drop(before, before)) == 0.0
    zero = {"w": jnp.zeros(2)}
    assert float(jp.metrics.relative_norm_drop(zero, zero)) == 0.0
    assert jp.metrics.pruning_stability(0.3, 0.6) == 0.5


def test_bad_input():
    with pytest.raises(ValueError, match="no prunable weight"):
        jp.sparsity({"a": None})
    with pytest.raises(TypeError, match=r"'a' has dtype float32"):
        jp.sparsity({"a": jnp.ones(3)})
    with pytest.raises(ValueError, match="accuracy_before must be positive, got 0"):
        jp.metrics.pruning_stability(0.3, 0)
    with pytest.raises(ValueError, match="pruned tree"):
        jp.metrics.relative_norm_drop({"w": jnp.ones(2)}, {"v": jnp.ones(2)})
