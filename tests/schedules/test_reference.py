"""Every schedule against a slow version of it, over sizes, shapes and warm-ups."""

from fractions import Fraction

import numpy as np
import optax
import pytest

from .common import NAMES, build, rates
from .reference import PEAK, dense_rates, retraining_rates

T = 4000
LENGTHS = (1, 2, 3, 7, 10, 72, 1000, 4000)
DEFAULT = {"slr": Fraction(1, 10), "clr": Fraction(1, 10), "llr": Fraction(1, 10)}
DEFAULT["allr"] = Fraction(1, 10)


@pytest.mark.filterwarnings("ignore:ft retrains at")
@pytest.mark.parametrize("W", [0, 200])
@pytest.mark.parametrize("kind", ["stepped", "linear", "cosine"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_slow_version(name, kind, W):
    dense = dense_rates(kind, T, W)
    table = np.array(dense)
    for N in LENGTHS:
        for warmup in (None, Fraction(1, 4)):
            options = {} if warmup is None else {"warmup": float(warmup)}
            schedule = build(
                name, lambda t: table[t], T=T, N=N, pretraining_warmup_steps=W, **options
            )
            length = DEFAULT.get(name, Fraction(0)) if warmup is None else warmup
            expected = retraining_rates(name, dense, W, N, length, peak=0.02, discount=0.5)
            # Relative to the rate itself where it is not tiny; 1e-9 of absolute error is 1e-8 of η.
            np.testing.assert_allclose(
                rates(schedule, N), expected, rtol=1e-6, atol=1e-9, err_msg=f"{N=} {warmup=}"
            )


@pytest.mark.parametrize("N", [1000, 1001])
@pytest.mark.parametrize(
    ("kind", "dense"),
    [
        ("stepped", optax.piecewise_constant_schedule(PEAK, {500: 0.1, 750: 0.1})),
        ("linear", optax.linear_schedule(PEAK, 0.0, 1000)),
        ("cosine", optax.cosine_decay_schedule(PEAK, 1000)),
    ],
)
def test_reads_the_schedules_of_optax(kind, dense, N):
    expected = retraining_rates(
        "slr", dense_rates(kind, 1000, 0), 0, N, Fraction(0), peak=0.0, discount=0.0
    )
    ours = rates(build("slr", dense, T=1000, N=N, warmup=0), N)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-8)


# A rate that is its own step, exact in float32, shows which step was read. The products of the
# indices pass 2**31 here, and 2**37.
@pytest.mark.parametrize("N", [450_000, 449_999, 225_000, 46_341, 900_001])
def test_slr_reads_the_right_steps_of_a_long_run(N):
    T = 450_000
    ours = rates(build("slr", lambda t: t + 1.0, T=T, N=N), N)
    w = N // 10
    K = N - w
    for k in [*range(0, K, 997), K - 2, K - 1]:
        assert ours[w + k] == k * T // K + 1
    assert ours[0] == 0


def test_lrw_reads_the_right_steps_of_a_long_run():
    ours = rates(build("lrw", lambda t: t + 1.0, T=450_000, N=449_998), 449_998)
    np.testing.assert_array_equal(ours, np.arange(3, 450_001))


def test_llr_falls_evenly_over_a_long_run():
    N = 450_000
    ours = rates(build("llr", T=160, N=N, warmup=0), N)
    np.testing.assert_allclose(ours, np.float32(0.1) * (N - np.arange(N)) / N, rtol=1e-6)
    assert np.all(np.diff(ours) <= 0)
    assert ours[-1] > 0
