"""When gradual magnitude pruning prunes, and to which sparsities."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune.schedules import gmp_targets


def test_the_times_of_zimmer_et_al_by_hand():
    # 50 steps, an interval of 10: floor(50 / 10) - 1 = 4 prunings, and the last 10 steps train.
    steps, sparsities = gmp_targets(0.64, total_steps=50, interval=10)
    assert steps == (10, 20, 30, 40)
    # 0.64 - 0.64 (1 - j / 4)^3 = 0.64 (64 - (4 - j)^3) / 64
    np.testing.assert_allclose(sparsities, [0.37, 0.56, 0.63, 0.64], rtol=1e-12)
    assert sparsities[-1] == 0.64


def test_a_remainder_lengthens_the_last_interval():
    assert gmp_targets(0.5, total_steps=39, interval=10) == ((10, 20), (0.4375, 0.5))
    assert gmp_targets(0.5, total_steps=29, interval=10) == ((10,), (0.5,))


def test_the_times_begin_later():
    steps, sparsities = gmp_targets(0.5, total_steps=37, interval=10, begin_step=7)
    assert steps == (17, 27)
    assert sparsities == (0.4375, 0.5)


def test_the_window_of_zhu_and_gupta_by_hand():
    # The last pruning is at end_step itself, and the first, to the initial sparsity, at begin_step.
    steps, sparsities = gmp_targets(
        0.9, total_steps=100, interval=20, begin_step=10, end_step=90, initial=0.1
    )
    assert steps == (10, 30, 50, 70, 90)
    # 0.9 - 0.8 (1 - j / 4)^3
    np.testing.assert_allclose(sparsities, [0.1, 0.5625, 0.8, 0.8875, 0.9], rtol=1e-12)
    assert sparsities[0] == 0.1
    assert sparsities[-1] == 0.9


def test_a_window_that_its_interval_does_not_divide_ends_early():
    steps, sparsities = gmp_targets(0.5, total_steps=100, interval=30, begin_step=5, end_step=94)
    assert steps == (35, 65)
    assert sparsities == (0.4375, 0.5)


def test_a_window_may_end_with_training():
    assert gmp_targets(0.5, total_steps=20, interval=10, end_step=20) == ((10, 20), (0.4375, 0.5))
    assert gmp_targets(0.5, total_steps=20, interval=20, end_step=20) == ((20,), (0.5,))


def test_numpy_numbers_are_numbers():
    found = gmp_targets(np.float64(0.5), total_steps=np.int64(30), interval=np.int32(10))
    assert found == ((10, 20), (0.4375, 0.5))
    assert all(type(step) is int for step in found[0])
    assert all(type(s) is float for s in found[1])


@given(
    final=st.floats(0.01, 0.999),
    share=st.floats(0, 0.99),
    total=st.integers(1, 10**9),
    interval=st.integers(1, 10**6),
    begin=st.integers(1, 10**6),
)
def test_it_rises_to_the_end_within_training(final, share, total, interval, begin):
    number = (total - begin) // interval - 1
    if number < 1 or number > 1000:
        return
    initial = share * final
    steps, sparsities = gmp_targets(
        final, total_steps=total, interval=interval, begin_step=begin, initial=initial
    )
    assert len(steps) == len(sparsities) == number + (initial > 0)
    assert sparsities[-1] == final
    assert all(b > a for a, b in pairwise(steps))
    assert all(b >= a for a, b in pairwise(sparsities))
    assert steps[0] == (begin if initial else begin + interval)
    # One whole interval is left, and less than two.
    assert interval <= total - steps[-1] < 2 * interval
    if initial:
        assert sparsities[0] == initial


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"total_steps": 19, "interval": 10},
            r"never prunes: interval=10 leaves no pruning in total_steps=19.*at most 9\.",
        ),
        (
            {"total_steps": 100, "interval": 30, "begin_step": 50},
            r"interval=30 leaves no pruning in total_steps=100 after begin_step=50.*at most 25\.",
        ),
        (
            {"total_steps": 100, "interval": 30, "begin_step": 50, "end_step": 79},
            r"never prunes: no interval of 30 steps fits between begin_step=50 and end_step=79",
        ),
        (
            {"total_steps": 100, "interval": 10, "begin_step": 60, "end_step": 40},
            r"never prunes: no interval of 10 steps",
        ),
        (
            {"total_steps": 100, "interval": 10, "end_step": 101},
            r"end_step=101 lies after the end of training, total_steps=100.*less sparse",
        ),
        (
            {"total_steps": 100, "interval": 10, "begin_step": 99},
            r"never prunes: .* in total_steps=100 after begin_step=99\. .*begin earlier, or train",
        ),
        (
            {"total_steps": 100, "interval": 10, "begin_step": 200},
            r"never prunes: .* after begin_step=200\. There must be two steps or more: begin ear",
        ),
        ({"total_steps": 100, "interval": 10, "initial": 0.5}, r"initial is 0\.5.*below final=0"),
        (
            {"total_steps": 100, "interval": 10, "begin_step": 9, "initial": 0.6},
            r"initial is 0\.6.*below final=0\.5",
        ),
        (
            {"total_steps": 100, "interval": 10, "initial": 0.1},
            r"initial=0\.1 asks for a pruning before the first step.*begin_step be at least 1",
        ),
        ({"total_steps": 0, "interval": 10}, "total_steps is 0, but must be at least 1"),
        ({"total_steps": 100, "interval": 0}, "interval is 0, but must be at least 1"),
        ({"total_steps": 100, "interval": 10, "begin_step": -1}, "begin_step is -1"),
        ({"total_steps": 100, "interval": 10, "initial": -0.1}, r"initial is -0\.1"),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        gmp_targets(0.5, **arguments)


@pytest.mark.parametrize("final", [1, 1.5, -0.1, float("nan"), 90])
def test_the_end_is_a_fraction(final):
    with pytest.raises(ValueError, match=f"final is {final}, but a fraction"):
        gmp_targets(final, total_steps=30, interval=10)


@pytest.mark.parametrize("name", ["total_steps", "interval", "begin_step", "end_step"])
@pytest.mark.parametrize("value", [10.0, True, "10"])
def test_steps_are_integers(name, value):
    arguments = {"total_steps": 30, "interval": 10, name: value}
    with pytest.raises(TypeError, match=rf"{name} must be a static Python integer"):
        gmp_targets(0.5, **arguments)
