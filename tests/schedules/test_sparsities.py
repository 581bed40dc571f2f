"""Sparsities by cycle and by step."""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune.schedules import cubic, imp_sparsities, twenty_percent_sparsities


def test_imp_by_hand():
    np.testing.assert_allclose(imp_sparsities(0.875, 3), [0.5, 0.75, 0.875], rtol=1e-12)
    assert imp_sparsities(0.9, 1) == (0.9,)
    assert all(type(s) is float for s in imp_sparsities(np.float32(0.5), np.int32(4)))


@given(final=st.floats(1e-6, 1 - 1e-6), cycles=st.integers(1, 50))
def test_imp_removes_equal_shares(final, cycles):
    targets = imp_sparsities(final, cycles)
    assert len(targets) == cycles
    assert targets[-1] == final
    kept = [1.0, *(1 - s for s in targets)]
    assert all(a > b for a, b in pairwise(kept))
    shares = [b / a for a, b in pairwise(kept)]
    np.testing.assert_allclose(shares, (1 - final) ** (1 / cycles), rtol=1e-9)


def test_twenty_percent_by_hand():
    expected = [0.2, 0.36, 0.488, 0.5904, 0.67232, 0.737856, 0.7902848, 0.8]
    np.testing.assert_allclose(twenty_percent_sparsities(0.8), expected, rtol=1e-12)
    assert twenty_percent_sparsities(0.1) == (0.1,)
    np.testing.assert_allclose(twenty_percent_sparsities(0.75, 0.5), [0.5, 0.75], rtol=1e-12)


@pytest.mark.parametrize("cycles", range(1, 40))
@pytest.mark.parametrize("rate", [0.2, 0.1, 0.3])
def test_twenty_percent_has_no_extra_cycle_for_round_off(rate, cycles):
    final = 1 - (1 - rate) ** cycles
    targets = twenty_percent_sparsities(final, rate)
    assert len(targets) == cycles
    assert targets[-1] == final


@given(final=st.floats(1e-6, 1 - 1e-6), rate=st.floats(0.05, 0.95))
def test_twenty_percent_rises_by_at_most_the_rate(final, rate):
    targets = twenty_percent_sparsities(final, rate)
    assert targets[-1] == final
    kept = [1.0, *(1 - s for s in targets)]
    shares = [1 - b / a for a, b in pairwise(kept)]
    # 1 - s is as exact as s, which for densities of 1e-7 is nine digits.
    np.testing.assert_allclose(shares[:-1], rate, rtol=1e-9, atol=4e-16 / kept[-1])
    assert 0 < shares[-1] <= rate * (1 + 1e-6)


def test_cubic_by_hand():
    sparsity = cubic(0.8, begin_step=2, end_step=6)
    expected = [0, 0, 0, 0.4625, 0.7, 0.7875, 0.8, 0.8]
    np.testing.assert_allclose(sparsity(jnp.arange(8)), expected, rtol=1e-6)


@pytest.mark.parametrize("final", [0.9, 0.95, 0.3, 0.123456789])
def test_cubic_is_exact_at_both_ends(final):
    sparsity = cubic(final, begin_step=100, end_step=1337, initial=0.1)
    for f in (sparsity, jax.jit(sparsity)):
        assert f(jnp.int32(1337)) == np.float32(final)
        assert f(jnp.int32(10**9)) == np.float32(final)
        assert f(jnp.int32(100)) == np.float32(0.1)
        assert f(jnp.int32(0)) == np.float32(0.1)


def test_cubic_follows_its_formula_and_never_falls():
    ours = np.asarray(cubic(0.95, begin_step=10, end_step=990, initial=0.5)(jnp.arange(1000)))
    for t in range(1000):
        share = min(max((t - 10) / 980, 0), 1)
        assert math.isclose(ours[t], 0.95 + (0.5 - 0.95) * (1 - share) ** 3, rel_tol=1e-6)
    assert np.all(np.diff(ours) >= 0)


def test_cubic_of_one_step():
    assert cubic(0.5, begin_step=0, end_step=1)(jnp.arange(3)).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("final", [1, 1.5, -0.1, float("nan")])
def test_final_is_a_fraction(final):
    makers = [
        lambda: twenty_percent_sparsities(final),
        lambda: cubic(final, begin_step=0, end_step=1),
    ]
    if final == 0:
        assert imp_sparsities(final, 3) == (0.0, 0.0, 0.0)  # a dense run in three phases
    else:
        makers.append(lambda: imp_sparsities(final, 3))
    for make in makers:
        with pytest.raises(ValueError, match=f"final is {final}, but a fraction"):
            make()


def test_errors():
    with pytest.raises(ValueError, match=r"final is 90, .* For 90 % pass 0.9"):
        imp_sparsities(90, 3)
    with pytest.raises(ValueError, match=r"rate is 1\.0"):
        twenty_percent_sparsities(0.9, 1.0)
    with pytest.raises(ValueError, match="cycles is 0, but must be at least 1"):
        imp_sparsities(0.9, 0)
    with pytest.raises(TypeError, match=r"cycles must be a static Python integer .* 2\.0"):
        imp_sparsities(0.9, 2.0)
    with pytest.raises(TypeError, match=r"final must be a static number, but it is '0\.9'"):
        imp_sparsities("0.9", 2)
    with pytest.raises(TypeError, match="final must be a static number, but it is True"):
        imp_sparsities(True, 2)
    with pytest.raises(ValueError, match="end_step is 5, but must not come before begin_step, 6"):
        cubic(0.9, begin_step=6, end_step=5)
    with pytest.raises(ValueError, match="begin_step is -1"):
        cubic(0.9, begin_step=-1, end_step=5)
    with pytest.raises(ValueError, match=r"initial is 0\.95, above final=0\.9"):
        cubic(0.9, begin_step=0, end_step=5, initial=0.95)
    with pytest.raises(ValueError, match=r"initial is -0\.1"):
        cubic(0.9, begin_step=0, end_step=5, initial=-0.1)
    with pytest.raises(TypeError, match="end_step must be a static Python integer"):
        cubic(0.9, begin_step=0, end_step=5.0)
