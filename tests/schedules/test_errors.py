"""Every refusal, by its message."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.schedules import retraining

from .common import DENSE, NAMES, TUNABLE, build

STEPS = {"pretraining_steps": 160, "retraining_steps": 20}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [20.0, np.float32(20), True, "20", None, jnp.int32(20)])
def test_step_counts_are_static_integers(name, value):
    with pytest.raises(TypeError, match=r"retraining_steps must be .* Pass int\(retraining_steps"):
        build(name, N=value)
    with pytest.raises(TypeError, match="pretraining_steps must be a static Python integer"):
        build(name, T=value)
    with pytest.raises(TypeError, match="pretraining_warmup_steps must be a static Python integer"):
        build(name, pretraining_warmup_steps=value)


def test_a_traced_step_count_is_refused():
    with pytest.raises(TypeError, match="retraining_steps must be a static Python integer"):
        jax.jit(lambda n: build("llr", N=n)(0))(20)


@pytest.mark.parametrize("name", NAMES)
def test_ranges(name):
    with pytest.raises(ValueError, match="retraining_steps is 0, but must be at least 1"):
        build(name, N=0)
    with pytest.raises(ValueError, match="pretraining_steps is 0, but must be at least 1"):
        build(name, T=0)
    with pytest.raises(ValueError, match="pretraining_warmup_steps is -1, but must be at least 0"):
        build(name, pretraining_warmup_steps=-1)
    with pytest.raises(ValueError, match="pretraining_warmup_steps is 160, but pretraining_steps"):
        build(name, pretraining_warmup_steps=160)
    for warmup in (1, 1.0, -0.1, float("nan"), 5):
        with pytest.raises(ValueError, match=f"warmup is {warmup}, but it is the fraction"):
            build(name, warmup=warmup)
    for warmup in (True, "0.1", None):
        with pytest.raises(
            TypeError, match=f"warmup must be a static number, but it is .?{warmup}"
        ):
            build(name, warmup=warmup)
    with pytest.raises(ValueError, match="takes all 20 retraining steps"):
        build(name, warmup=float(np.nextafter(1, 0)))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "lrw"])
def test_only_lrw_needs_a_window(name):
    build(name, N=161)


def test_lrw_needs_a_window():
    build("lrw", N=160)
    with pytest.raises(ValueError, match="retraining_steps=161, but pretraining_steps is 160"):
        build("lrw", N=161)


@pytest.mark.parametrize("name", NAMES)
def test_pretraining_is_a_schedule(name):
    with pytest.raises(TypeError, match=r"it is 0\.1\. .* optax\.constant_schedule\(x\)"):
        build(name, 0.1)


@pytest.mark.parametrize("name", ["ft", "lrw", "slr", "clr", "llr", "allr", "stepped"])
def test_rates_are_finite_and_not_negative(name):
    for bad in (np.nan, np.inf, -np.inf, -1e-9):
        table = np.full(160, 0.1)
        table[[77, 90]] = bad
        with pytest.raises(ValueError, match=rf"rate {bad} at step 77 of 160 \(2 such steps\)"):
            build(name, lambda t, table=table: table[t])
    with pytest.raises(ValueError, match="learning rate 0 at each of its 160 steps"):
        build(name, optax.constant_schedule(0.0))


def test_pretraining_gives_one_rate():
    with pytest.raises(ValueError, match=r"shape \(2,\) at step 0"):
        build("llr", lambda t: jnp.ones(2))


def test_pretraining_must_not_be_traced():
    with pytest.raises(TypeError, match="pretraining depends on a traced value"):
        jax.jit(lambda x: build("llr", lambda t: x)(0))(0.1)


def test_errors_of_pretraining_itself_are_shown():
    def dense(t):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        build("llr", dense)


@pytest.mark.parametrize("discount", [0, 0.0, -0.5, 1.001, float("nan"), jnp.float32(2)])
def test_discount_range(discount):
    with pytest.raises(ValueError, match=r"discount is .* must lie in \(0, 1\]"):
        build("allr", discount=discount)


@pytest.mark.parametrize("discount", [True, "0.5", None, jnp.ones(1)])
def test_discount_is_a_scalar(discount):
    with pytest.raises(TypeError, match="discount must be a scalar"):
        build("allr", discount=discount)


@pytest.mark.parametrize("name", TUNABLE)
def test_peak(name):
    for peak in (0, -0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"peak is {peak}, but a learning rate"):
            build(name, peak=peak)
    for peak in (True, "0.1", None, jnp.float32(0.1)):
        with pytest.raises(TypeError, match="peak must be a static number"):
            build(name, peak=peak)


def test_retraining_knows_its_names():
    with pytest.raises(ValueError, match=r"retraining schedule 'LLR'\. Known are: ft, lrw, slr, "):
        retraining("LLR", DENSE, **STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_retraining_takes_what_the_schedule_takes(name):
    for option, value, takers in (
        ("discount", 0.5, ("allr",)),
        ("peak", 0.1, TUNABLE),
        ("minimum", False, ("ft",)),
    ):
        if name not in takers:
            with pytest.raises(ValueError, match=f"{name} has no {option}, but {value} is given"):
                retraining(name, DENSE, **STEPS, **{option: value})
    if name == "allr":
        with pytest.raises(ValueError, match=r"allr needs discount=\.\.\. \(allr_discount\)"):
            retraining(name, DENSE, **STEPS)
    if name in TUNABLE:
        with pytest.raises(ValueError, match=rf"{name} needs peak=\.\.\."):
            retraining(name, DENSE, **STEPS)
