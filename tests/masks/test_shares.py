"""Totals shared out in proportion, within limits: on the host and in compiled code."""

import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune._selection import limbs
from jaxprune.masks.allocations import _shares
from tests.masks import oracle

LEAVES = st.integers(1, 40)
SCALES = [10, 1000, 2**20, 2**33, 2**41]


@st.composite
def problems(draw, leaves=LEAVES, scales=SCALES):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    number, scale = draw(leaves), draw(st.sampled_from(scales))
    high = [int(x) for x in rng.integers(0, scale, number)]
    low = [int(x * f) for x, f in zip(high, rng.choice([0, 0, 0.2, 1], number), strict=True)]
    spread = draw(st.sampled_from([0.0, 1.0, 5.0]))
    a = [float(np.exp(spread * x)) for x in rng.normal(size=number)]
    share = draw(st.floats(0, 1))
    return a, low, high, sum(low) + round(share * (sum(high) - sum(low)))


def check(problem, kept):
    a, low, high, total = problem
    assert sum(kept) == total
    assert all(lo <= k <= hi for lo, k, hi in zip(low, kept, high, strict=True))
    real = oracle.real_shares(a, low, high, total)
    # Shares are cut at 2**-62: at these sizes that is next to nothing.
    assert all(abs(k - x) < 1 + Fraction(1, 2**15) for k, x in zip(kept, real, strict=True))


@settings(max_examples=300)
@given(problems(leaves=st.integers(1, 12)))
def test_shares_add_up_within_the_limits_and_next_to_the_real_solution(problem):
    a, low, high, total = problem
    check(problem, _shares.solve(a, low, high).of(total))


@settings(max_examples=40)
@given(problems(leaves=st.integers(1, 10), scales=[10, 60]))
def test_every_total_has_its_shares(problem):
    a, low, high, _ = problem
    shares = _shares.solve(a, low, high)
    before = None
    for total in range(sum(low), sum(high) + 1):
        kept = shares.of(total)
        check((a, low, high, total), kept)
        if before is not None:  # one more in all: largest remainder may move one the other way
            assert all(abs(x - y) <= 1 for x, y in zip(kept, before, strict=True))
        before = kept


@settings(max_examples=200)
@given(problems(leaves=st.integers(2, 12), scales=[10, 1000, 2**33]))
def test_the_largest_remainders_are_rounded_up(problem):
    a, low, high, total = problem
    kept = _shares.solve(a, low, high).of(total)
    real = oracle.real_shares(a, low, high, total)
    up = [x - (x // 1) for k, x in zip(kept, real, strict=True) if k > x]
    down = [x - (x // 1) for k, x in zip(kept, real, strict=True) if k < x]
    if up and down:
        assert min(up) >= max(down) - Fraction(1, 2**20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([10, 10, 10], 10, (4, 3, 3)),
        ([10, 10, 10], 11, (4, 4, 3)),
        ([1, 1, 1, 1], 2, (1, 1, 0, 0)),
        ([6, 24, 6], 12, (2, 8, 2)),
        ([6, 24, 6], 2, (1, 1, 0)),  # 1/3, 4/3, 1/3
        ([8, 25, 36, 7, 29], 30, (3, 7, 10, 2, 8)),  # 16/7, 50/7, 72/7, 2, 58/7
    ],
)
def test_equal_remainders_go_to_the_lowest_index(sizes, total, expected):
    a = [float(n) for n in sizes]
    shares = _shares.solve(a, [0] * len(sizes), sizes)
    assert shares.of(total) == expected
    assert of_traced(shares, total) == expected


def test_saturated_leaves_leave_the_rest_to_the_others():
    shares = _shares.solve([1.0, 1.0, 1.0], [0, 0, 4], [2, 10, 10])
    assert shares.of(4) == (0, 0, 4)
    assert shares.of(9) == (2, 3, 4)  # 2.5 each would be more than the first can take
    assert shares.of(12) == (2, 5, 5)
    assert shares.of(22) == (2, 10, 10)


def test_nothing_to_share():
    assert _shares.solve([1.0, 2.0], [3, 4], [3, 4]).of(7) == (3, 4)
    assert _shares.solve([1.0, 2.0], [0, 0], [0, 0]).of(0) == (0, 0)
    assert _shares.solve([1.0], [0], [2**40]).of(2**39 + 1) == (2**39 + 1,)


def of_traced(shares, total):
    return of_segments(shares.segments(), total)


def of_segments(segments, total):
    parts = _shares.shared_out_traced(segments, jnp.asarray(limbs.to_limbs(total)))
    return tuple(limbs.from_limbs(x) for x in parts)


@pytest.mark.slow
@given(
    problems(leaves=st.sampled_from([1, 6, 40])), st.lists(st.floats(0, 1), min_size=3, max_size=3)
)
def test_traced_totals_get_the_same_shares(problem, others):
    a, low, high, total = problem
    shares = _shares.solve(a, low, high)
    # The last segment repeated: tables of one shape, so that each operation compiles once.
    segments = shares.segments()
    padded = segments + segments[-1:] * (2 * len(a) + 2 - len(segments))
    span = sum(high) - sum(low)
    for x in {total, sum(low), sum(high), *(sum(low) + round(f * span) for f in others)}:
        assert of_segments(padded, x) == shares.of(x)


def test_traced_totals_in_jit_past_two_to_the_32():
    sizes = [2**33 + 1, 3 * 2**32, 12_345, 2**40 + 7]
    shares = _shares.solve([float(n) ** 0.7 for n in sizes], [0, 5, 0, 2**20], sizes)
    compiled = jax.jit(shares.of_traced)
    for total in [2**20 + 5, 2**32 - 1, 2**32, 2**32 + 1, 10**12, sum(sizes) - 1, sum(sizes)]:
        parts = compiled(jnp.asarray(limbs.to_limbs(total)))
        kept = tuple(limbs.from_limbs(x) for x in parts)
        assert kept == shares.of(total)
        check(([float(n) ** 0.7 for n in sizes], [0, 5, 0, 2**20], sizes, total), kept)


def test_traced_totals_of_many_leaves_under_vmap():
    rng = np.random.default_rng(0)
    high = [int(x) for x in rng.integers(1, 5000, 40)]
    low = [x // 3 if i % 5 == 0 else 0 for i, x in enumerate(high)]
    shares = _shares.solve(list(rng.uniform(0.1, 9, 40)), low, high)
    totals = [int(x) for x in rng.integers(sum(low), sum(high) + 1, 64)]
    counts = jnp.asarray(limbs.stack_limbs(totals))
    each = np.asarray(jax.jit(jax.vmap(shares.of_traced))(counts))
    for total, found in zip(totals, each, strict=True):
        assert tuple(limbs.from_limbs(x) for x in found) == shares.of(total)


@settings(max_examples=100)
@given(problems(leaves=st.integers(1, 20)))
def test_the_segment_found_is_that_of_the_table(problem):
    a, low, high, total = problem
    shares = _shares.solve(a, low, high)
    segments = shares.segments()
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)
    for x in {total, *(min(max(s + d, sum(low)), sum(high)) for s in starts for d in (-1, 0, 1))}:
        segment = next(s for s in reversed(segments) if s.start <= x)
        assert shares.of(x) == _shares.shared_out(segment, x)


def test_a_total_known_on_the_host_needs_no_table():
    rng = np.random.default_rng(0)
    high = [int(x) for x in rng.integers(1, 2**20, 600)]
    low = [x // 3 if i % 5 == 0 else 0 for i, x in enumerate(high)]
    a, totals = [float(x) ** 0.7 for x in high], [sum(low), sum(high) // 2, sum(high)]
    start = time.perf_counter()
    shares = _shares.solve(a, low, high)
    found = [shares.of(total) for total in totals]
    middle = time.perf_counter()
    segments = shares.segments()  # quadratic in the leaves
    assert middle - start < (time.perf_counter() - middle) / 3
    for total, kept in zip(totals, found, strict=True):
        segment = next(s for s in reversed(segments) if s.start <= total)
        assert kept == _shares.shared_out(segment, total)
        check((a, low, high, total), kept)
    assert _shares.solve(a, low, high) is shares


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_proportions_are_positive(bad):
    with pytest.raises(ValueError, match=rf"in proportion to {bad}: densities must be positive"):
        _shares.solve([1.0, bad], [0, 0], [2, 2])
