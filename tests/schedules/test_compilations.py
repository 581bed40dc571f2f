"""How many programs a schedule compiles. Lengths that no other test has: nothing is ready made."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import schedules
from tests.programs import counted

from .common import NAMES, build

OPTAX = {
    "piecewise": lambda steps: optax.piecewise_constant_schedule(0.1, {steps // 2: 0.1}),
    "cosine": lambda steps: optax.warmup_cosine_decay_schedule(0.0, 0.1, 9, steps, 1e-4),
    "joined": lambda steps: optax.join_schedules(
        [optax.linear_schedule(0.0, 0.1, 9), optax.exponential_decay(0.1, 20, 0.5)], [9]
    ),
    "interpolated": lambda steps: optax.piecewise_interpolate_schedule(
        "cosine", 0.1, {9: 0.5, steps: 0.1}
    ),
}


@pytest.mark.parametrize("kind", OPTAX)
def test_a_schedule_compiles_one_program_however_long_the_run(kind):
    for steps in (1237, 2 * 1237):
        dense = OPTAX[kind](steps)
        with counted() as programs:
            build("slr", dense, T=steps)
        assert programs.number == 1


def test_another_schedule_of_the_same_pretraining_compiles_none():
    for name in NAMES:
        # Made anew: it is not the function that is remembered, but what it computes.
        dense = OPTAX["cosine"](1249)
        with counted() as programs:
            build(name, dense, T=1249)
        assert programs.number == (name == NAMES[0])


def test_what_a_schedule_reads_may_change():
    rate = np.array([0.1], np.float32)
    dense = lambda t: jnp.asarray(rate)[0] * (t + 1.0)  # noqa: E731
    seen = []
    for rate[0] in (0.1, 0.2):
        seen.append(float(schedules.lrw(dense, pretraining_steps=7, retraining_steps=1)(0)))
    np.testing.assert_allclose(seen, [0.7, 1.4], rtol=1e-6)


@pytest.mark.parametrize(
    "dense", [optax.constant_schedule(0.1), lambda t: np.linspace(0.1, 0.01, 1259)[t]]
)
def test_numbers_of_the_host_compile_nothing(dense):
    with counted() as programs:
        schedule = build("slr", dense, T=1259)
        schedule(3)
        schedule(np.arange(1259))
    assert programs.number == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_call_compiles_nothing_for_counts_of_the_host_and_one_program_for_others(name):
    schedule = build(name, T=1277, N=1277)
    with counted() as programs:
        for count in (5, np.int32(5), np.arange(1277)):
            schedule(count)
    assert programs.number == 0
    count = jax.device_put(np.arange(1277))
    with counted() as programs:
        schedule(count)
    assert programs.number <= 1
