"""Schedules as functions of the count: traced, batched, past the end; and how they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import schedules

from .common import DENSE, NAMES, bits, build, needed, rates

SCHEDULES = {name: build(name) for name in NAMES}
SCHEDULES["cubic"] = schedules.cubic(0.9, begin_step=0, end_step=19, initial=0.1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_jit_vmap_and_single_counts_give_the_same_bits(name):
    schedule = SCHEDULES[name]
    eager = rates(schedule, 20)
    np.testing.assert_array_equal(bits(jax.jit(schedule)(jnp.arange(20))), bits(eager))
    np.testing.assert_array_equal(bits(jax.vmap(schedule)(jnp.arange(20))), bits(eager))
    jitted = jax.jit(schedule)
    for i in range(20):
        for one in (schedule(i), schedule(jnp.int32(i)), jitted(jnp.int32(i))):
            assert one.shape == ()
            assert one.dtype == jnp.float32
            assert bits(one) == bits(eager)[i]


@pytest.mark.parametrize("name", SCHEDULES)
def test_counts_outside_give_the_ends(name):
    schedule = SCHEDULES[name]
    first, last = schedule(0), schedule(19)
    for count in (20, 10**30, jnp.int32(2**31 - 1), np.int64(2**40), jnp.uint32(2**32 - 1)):
        assert schedule(count) == last
    for count in (np.array(2**40), np.array(2**31 + 5, np.uint32)):
        assert schedule(count) == last
    for count in (-1, -(10**30), jnp.int32(-(2**31)), np.int64(-(2**40)), np.array(-(2**40))):
        assert schedule(count) == first
    assert jax.jit(schedule)(jnp.int32(10**6)) == last


def test_narrow_counts():
    schedule = build("lrw", lambda t: t + 1.0, T=4000, N=4000)
    for dtype in (jnp.int8, jnp.uint8, jnp.int16, jnp.uint32):
        assert schedule(jnp.asarray(100, dtype)) == 101
    np.testing.assert_array_equal(schedule(np.array([[1, 2], [3, -4]], np.int8)), [[2, 3], [4, 1]])


def test_floating_counts_are_refused():
    with pytest.raises(TypeError, match="integer count, but it is of dtype float32"):
        SCHEDULES["llr"](jnp.float32(3))


def test_the_first_step_of_cubic_may_be_far_away():
    schedule = schedules.cubic(0.9, begin_step=10**6, end_step=10**6 + 2)
    counts = jnp.array([-(2**31), 0, 10**6, 10**6 + 1, 10**6 + 2, 2**31 - 1], jnp.int32)
    expected = [0, 0, 0, 0.9 * 7 / 8, 0.9, 0.9]
    np.testing.assert_allclose(schedule(counts), expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_can_be_built_while_tracing(name):
    inside = jax.jit(lambda count: build(name)(count))(jnp.arange(20))
    np.testing.assert_array_equal(bits(inside), bits(rates(SCHEDULES[name], 20)))


def test_a_schedule_built_while_tracing_leaks_nothing():
    kept = []
    jax.jit(lambda x: kept.append(build("llr")) or x)(1.0)
    assert kept[0](2) == SCHEDULES["llr"](2)


@pytest.mark.parametrize(
    "dense",
    [
        lambda t: 0.1 if t < 80 else 0.01 if t < 120 else 0.001,
        lambda t: 0.1 * 0.1 ** ((int(t) >= 80) + (int(t) >= 120)),
        lambda t: np.float64([0.1, 0.01, 0.001][(t >= 80) + (t >= 120)]),
        lambda t: jax.lax.cond(t < 80, lambda: 0.1, lambda: jnp.where(t < 120, 0.01, 0.001)),
        lambda t: jnp.where(t < 80, 0.1, jnp.where(t < 120, 0.01, 0.001)),
        lambda t: np.where(np.asarray(t) < 80, 0.1, np.where(np.asarray(t) < 120, 0.01, 0.001)),
    ],
    ids=["if", "int", "list", "cond", "where", "numpy"],
)
def test_reads_any_function_of_one_count(dense):
    np.testing.assert_allclose(
        rates(build("lrw", dense, N=160), 160), rates(build("lrw", N=160), 160), rtol=1e-6
    )


def test_reads_a_constant():
    for constant in (optax.constant_schedule(0.1), lambda t: 0.1, lambda t: jnp.float32(0.1)):
        np.testing.assert_array_equal(rates(build("lrw", constant), 20), np.float32([0.1] * 20))


def test_a_function_of_all_counts_is_not_mistaken_for_rates():
    # Right shape for 160 counts at once, but its rates depend on what else is asked for.
    def dense(t):
        t = jnp.asarray(t, jnp.float32)
        return 0.1 - 0.0005 * t if t.ndim == 0 else 0.1 - 0.0005 * (jnp.max(t) - t)

    expected = 0.1 - 0.0005 * np.arange(160)
    np.testing.assert_allclose(rates(build("lrw", dense, N=160), 160), expected, rtol=1e-5)


def test_a_long_python_schedule_is_read_once_per_step():
    calls = []

    def dense(t):
        if isinstance(t, int):
            calls.append(t)
            return 0.1
        raise TypeError("one integer, please")

    build("llr", dense, T=5000)
    assert calls == list(range(5000))


def test_schedules_of_optax_are_read_at_once():
    # Under this suite's strict promotion, too, where a schedule that divides its integer count
    # fails on arrays of counts: one step at a time would take minutes.
    calls = []
    cosine = optax.cosine_decay_schedule(0.1, 450_000)

    def dense(t):
        calls.append(t)
        return cosine(t)

    build("slr", dense, T=450_000)
    assert len(calls) <= 4


def test_integer_counts_of_numpy_are_taken():
    ours = build("lrw", T=np.int64(160), N=np.int32(72), pretraining_warmup_steps=np.uint8(3))
    np.testing.assert_array_equal(rates(ours, 72), rates(build("lrw", N=72), 72))


def test_traced_and_batched_discounts():
    def at(discount, count):
        return build("allr", discount=discount)(count)

    whole = rates(build("llr"), 20)
    np.testing.assert_array_equal(rates(build("allr", discount=1), 20), whole)
    traced = jax.jit(at)(jnp.float32(0.3), jnp.arange(20))
    np.testing.assert_array_equal(bits(traced), bits(rates(build("allr", discount=0.3), 20)))
    many = jax.vmap(at, (0, None))(jnp.array([0.5, 0.25]), jnp.arange(20))
    np.testing.assert_array_equal(many, np.stack([whole * 0.5, whole * 0.25]))


def test_drives_an_optimizer_inside_jit():
    optimizer = optax.sgd(build("slr", N=20))
    params = {"w": jnp.zeros(())}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update({"w": -jnp.ones(())}, state)
        return optax.apply_updates(params, updates), state

    seen = []
    for _ in range(20):
        before = params["w"]
        params, state = step(params, state)
        seen.append(float(params["w"] - before))
    np.testing.assert_allclose(seen, rates(build("slr", N=20), 20), atol=2e-7)


def test_the_table_of_names_is_complete():
    public = {n for n in dir(schedules) if not n.startswith("_")}
    others = {
        "RETRAINING",
        "retraining",
        "allr_discount",
        "allr_ratio",
        "cubic",
        "retraining_after",
    }
    others |= {"imp_sparsities", "twenty_percent_sparsities", "gmp_targets"}
    assert public - others == set(NAMES)
    assert all(set(needed(n).get(n, {})) <= {"peak", "discount"} for n in NAMES)
    assert schedules.RETRAINING["allr"] is schedules.allr
    assert callable(DENSE)
