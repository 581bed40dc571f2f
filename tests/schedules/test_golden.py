"""Every schedule against a table written by hand."""

import numpy as np
import optax
import pytest

from jaxprune import schedules

from .common import DENSE, build, rates


def check(schedule, expected):
    np.testing.assert_allclose(rates(schedule, len(expected)), expected, rtol=2e-6, atol=1e-9)


def test_ft():
    check(build("ft", N=72), [0.001] * 72)


def test_ft_minimum_is_taken_after_the_warmup():
    table = np.array([0.0, 0.05, 0.1, 0.01, 0.02])
    options = {"T": 5, "N": 2, "pretraining": lambda t: table[t]}
    check(build("ft", **options), [0.02, 0.02])
    check(build("ft", **options, minimum=True, pretraining_warmup_steps=2), [0.01, 0.01])


def test_ft_with_a_warmup():
    check(build("ft", N=6, warmup=1 / 3), [0, 0.0005, 0.001, 0.001, 0.001, 0.001])


def test_lrw_example_of_the_paper():
    check(build("lrw", N=72), [0.01] * 32 + [0.001] * 40)


def test_lrw_over_the_whole_run_replays_its_warmup():
    table = np.array([0.0, 0.05, 0.1, 0.01, 0.02])
    schedule = build("lrw", lambda t: table[t], T=5, N=5, pretraining_warmup_steps=2)
    check(schedule, table)


def test_lrw_with_a_warmup_keeps_the_rest_in_place():
    table = np.array([0.4, 0.3, 0.2, 0.1])
    check(build("lrw", lambda t: table[t], T=4, N=4, warmup=0.5), [0, 0.1, 0.2, 0.1])


def test_slr():
    # w = int(7.2) = 7 steps up; then 65: k * 160 // 65 passes 80 at k = 33 and 120 at k = 49.
    up = [0.1 * np.sin(np.pi * i / 14) ** 2 for i in range(7)]
    check(build("slr", N=72), up + [0.1] * 33 + [0.01] * 16 + [0.001] * 16)


def test_slr_replaces_the_pretraining_warmup_by_the_maximum():
    table = np.array([0.0, 0.05, 0.1, 0.01, 0.02, 0.03])
    options = {"pretraining": lambda t: table[t], "T": 6, "warmup": 0}
    check(build("slr", **options, N=6), table)
    check(
        build("slr", **options, N=6, pretraining_warmup_steps=2), [0.1, 0.1, 0.1, 0.01, 0.02, 0.03]
    )
    check(build("slr", **options, N=3, pretraining_warmup_steps=2), [0.1, 0.1, 0.02])
    check(build("slr", **options, N=4, pretraining_warmup_steps=1), [0.1, 0.05, 0.01, 0.02])


def test_slr_stretches():
    table = np.array([0.1, 0.01])
    check(build("slr", lambda t: table[t], T=2, N=5, warmup=0), [0.1] * 3 + [0.01] * 2)


def test_clr():
    # Half way down: the mean of 0.1 and 0.001.
    expected = [0, 0.05, 0.1, 0.08550178567, 0.0505, 0.01549821433]
    check(build("clr", N=6, warmup=1 / 3), expected)


def test_llr():
    check(build("llr", N=6, warmup=1 / 3), [0, 0.05, 0.1, 0.075, 0.05, 0.025])
    check(build("llr", N=10), [0] + [0.1 * (9 - k) / 9 for k in range(9)])


def test_llr_needs_no_warmup_left():
    check(build("llr", N=1), [0.1])


def test_allr():
    expected = [0, 0.025, 0.05, 0.0375, 0.025, 0.0125]
    check(build("allr", N=6, warmup=1 / 3, discount=0.5), expected)


def test_tunable():
    check(build("constant", N=4), [0.02] * 4)
    check(build("stepped", N=4), [0.02, 0.02, 0.002, 0.0002])
    check(build("cosine", N=4), [0.02, 0.01707106781, 0.01, 0.00292893219])
    check(build("linear", N=4), [0.02, 0.015, 0.01, 0.005])
    check(build("linear", N=4, warmup=0.5), [0, 0.01, 0.02, 0.01])


@pytest.mark.parametrize("name", ["slr", "clr", "llr", "allr"])
def test_restarts_warm_up_over_a_tenth_by_default(name):
    table = rates(build(name, N=39), 39)
    assert table[0] == 0
    assert np.argmax(table) == 3


@pytest.mark.parametrize("name", ["ft", "lrw", "constant", "stepped", "cosine", "linear"])
def test_the_others_do_not(name):
    assert rates(build(name, N=39), 39)[0] > 0


def test_warmup_counts_what_was_meant():
    def warm(fraction, steps):
        table = rates(build("constant", N=steps, warmup=fraction), steps)
        return int(np.argmax(table))

    assert 0.29 * 100 < 29
    assert warm(0.29, 100) == 29
    assert warm(1 / 3, 3) == 1
    assert warm(0.1, 19) == 1
    assert warm(0.15, 20) == 3
    assert warm(0.999, 100) == 99


def test_ft_warns_where_its_rate_is_practically_zero():
    linear = optax.linear_schedule(0.1, 0.0, 4000)
    with pytest.warns(UserWarning, match=r"last pretraining rate, 2\.5e-05: practically zero"):
        build("ft", linear, T=4000)
    with pytest.warns(UserWarning, match="lowest pretraining rate"):
        build("ft", linear, T=4000, minimum=True)
    # A thousandfold decay by steps is meant: no warning, which would be an error here.
    build("ft", optax.piecewise_constant_schedule(0.4, {3: 0.1, 6: 0.1, 8: 0.1}), T=9)


def test_retraining_is_the_function_of_that_name():
    common = {"pretraining_steps": 160, "retraining_steps": 20}
    for name, options in {
        "ft": {"minimum": True},
        "lrw": {},
        "slr": {"warmup": 0},
        "clr": {},
        "llr": {"pretraining_warmup_steps": 5},
        "allr": {"discount": 0.3},
        "constant": {"peak": 0.1},
        "stepped": {"peak": 0.1, "warmup": 0.2},
        "cosine": {"peak": 0.1},
        "linear": {"peak": 0.1},
    }.items():
        ours = schedules.retraining(name, DENSE, **common, **options)
        theirs = getattr(schedules, name)(DENSE, **common, **options)
        np.testing.assert_array_equal(rates(ours, 20), rates(theirs, 20))
