"""Sparsity, stability, norm drop."""

import jax.numpy as jnp
import pytest

import jaxprune as jp


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
