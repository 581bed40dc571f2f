"""Times by a clock that the tests move, and the interval of a median."""

import gc
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.metrics import compare_latency, latency, median_interval


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


class Ticking:
    """A jitted function, to all appearances, of which each call takes the next of given times."""

    def __init__(self, clock, seconds, log=None, name=""):
        self.clock, self.seconds, self.log, self.name = clock, iter(seconds), log, name

    def __call__(self, *args):
        assert not gc.isenabled()
        self.clock[0] += next(self.seconds)
        if self.log is not None:
            self.log.append(self.name)
        return args

    lower = trace = eval_shape = __call__


WARMUP = (100.0, 8.0, 4.0, 8.0)  # calls before the first timing


def test_the_median_of_single_calls(clock):
    times = np.random.default_rng(0).permutation(25).astype(float)
    found = latency(Ticking(clock, (*WARMUP, *times)), min_seconds=0)
    assert found == (12.0, 7.0, 17.0, 25, 1, None)
    assert found.examples_per_second(60) == 5.0
    assert gc.isenabled()


def test_a_timing_lasts_as_long_as_asked(clock):
    # Four seconds at best beforehand: three calls for at least ten; of each timing the mean.
    blocks = [(1.0, 2.0, 3.0), (4.0, 4.0, 4.0)] * 3
    found = latency(
        Ticking(clock, (*WARMUP, *itertools.chain(*blocks))), repeats=6, min_seconds=10.0
    )
    assert found == (3.0, 2.0, 4.0, 6, 3, None)
    found = latency(Ticking(clock, (*WARMUP, *range(6))), repeats=6, min_seconds=4.0)
    assert found.calls == 1


def test_a_clock_too_coarse_for_one_call(clock):
    found = latency(Ticking(clock, itertools.repeat(0.0)), repeats=6, min_seconds=1e-6)
    assert found.calls == 1000


def test_pairs_in_random_order_and_the_ratio_of_each(clock):
    log = []
    # The machine becomes slower throughout: the times of both spread, their ratio does not.
    slow = [2.0**i for i in range(25)]

    def run(seed):
        log.clear()
        return compare_latency(
            dense=(Ticking(clock, (*WARMUP, *(3 * s for s in slow)), log, "dense"), ()),
            small=(Ticking(clock, (*WARMUP, *slow), log, "small"), [1, 2]),
            batch_size=8,
            min_seconds=0,
            seed=seed,
        )

    found = run(0)
    assert found.speedup == (3.0, 3.0, 3.0)
    assert found.dense == (3 * slow[12], 3 * slow[7], 3 * slow[17], 25, 1, None)
    assert found.small.median_seconds == slow[12]
    assert found.small_examples_per_second == 8 / slow[12]
    assert found.dense_examples_per_second == 8 / (3 * slow[12])
    assert log[:8] == ["dense"] * 4 + ["small"] * 4
    pairs = list(zip(log[8::2], log[9::2], strict=True))
    assert all(set(pair) == {"dense", "small"} for pair in pairs)
    assert 5 <= sum(pair[0] == "dense" for pair in pairs) <= 20
    first = list(log)
    run(0)
    assert log == first
    run(1)
    assert log != first


def test_a_function_is_compiled_once_and_that_is_timed_apart(clock):
    traces = []

    def f(x):
        traces.append(1)
        clock[0] += 5.0  # what tracing takes
        return {"out": x + 1}

    found = latency(f, jnp.ones(3), min_seconds=0)
    assert len(traces) == 1
    assert found == (0.0, 0.0, 0.0, 25, 1, 5.0)


@pytest.mark.parametrize("make", [jax.jit, lambda f: jax.jit(f).lower(jnp.ones(3)).compile()])
def test_a_function_that_is_compiled_already_stays_as_it_is(make):
    found = latency(make(lambda x: x + 1), jnp.ones(3), repeats=6, min_seconds=0)
    assert found.compile_seconds is None
    assert 0 < found.low <= found.median_seconds <= found.high


def test_static_arguments_of_a_jitted_function():
    f = jax.jit(lambda x, n: x * n, static_argnums=1)
    assert latency(f, jnp.ones(3), 2.0, repeats=6, min_seconds=0).calls == 1


def test_a_shrunk_network_beside_the_dense_one():
    def apply(params, x):
        return jnp.tanh(x @ params["first"]) @ params["last"]

    def of_width(width):
        return {"first": jnp.ones((4, width)), "last": jnp.ones((width, 2))}

    dense, small, x = of_width(8), of_width(2), jnp.ones((16, 4))
    options = {"batch_size": 16, "repeats": 6, "min_seconds": 0}
    found = compare_latency(dense=(apply, (dense, x)), small=(apply, (small, x)), **options)
    assert found.dense.compile_seconds > 0
    assert found.speedup.low <= found.speedup.median <= found.speedup.high
    promised = jp.metrics.flops(apply, dense, x).macs / jp.metrics.flops(apply, small, x).macs
    assert promised == 4.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"repeats": 5}, ValueError, "repeats is 5, but an interval of the median takes 6"),
        ({"repeats": 6.0}, TypeError, "repeats must be a static Python integer"),
        ({"min_seconds": -1.0}, ValueError, "min_seconds is -1.0, but must be finite and in"),
        ({"min_seconds": "1"}, TypeError, "min_seconds must be a static number"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        latency(jnp.sum, jnp.ones(3), **options)
    with pytest.raises(error, match=message):
        compare_latency(dense=(jnp.sum, ((),)), small=(jnp.sum, ((),)), **options)


def test_bad_sides():
    side = (jnp.sum, (jnp.ones(3),))
    with pytest.raises(TypeError, match=r"small is a function and its arguments.*got <"):
        compare_latency(dense=side, small=jnp.sum)
    with pytest.raises(TypeError, match=r"dense is a function and its arguments"):
        compare_latency(dense=(jnp.sum, jnp.ones(3)), small=side)
    with pytest.raises(TypeError, match=r"dense is to be a function of JAX arrays; got 3"):
        compare_latency(dense=(3, ()), small=side)
    with pytest.raises(TypeError, match=r"f is to be a function of JAX arrays; got 3"):
        latency(3)
    with pytest.raises(ValueError, match="batch_size is 0, but must be at least 1"):
        compare_latency(dense=side, small=side, batch_size=0)


def test_donated_arguments_are_refused():
    f = jax.jit(lambda x: x + 1, donate_argnums=0)
    with pytest.raises(ValueError, match=r"f donates its arguments.*without donate_argnums"):
        latency(f, jnp.ones(3))


# The interval


def covered(n, j):
    """P that between j and n - 1 - j of n values lie below their median, by counting all cases."""
    inside = sum(j < bin(case).count("1") < n - j for case in range(2**n))
    return inside / 2**n


@pytest.mark.parametrize("n", [6, 9, 12, 15])
def test_the_interval_is_the_narrowest_of_its_level(n):
    found = median_interval([float(i) for i in range(n)])
    j = int(found.low)
    assert found.high == n - 1 - j
    assert covered(n, j) >= 0.95
    assert covered(n, j + 1) < 0.95


def test_of_25_values_the_8th_and_the_18th():
    values = np.random.default_rng(0).permutation(25).astype(float)
    assert median_interval(list(values)) == (12.0, 7.0, 17.0)


def test_too_few_values_have_no_interval():
    with pytest.raises(ValueError, match=r"5 values are too few for an interval of level 0\.95"):
        median_interval([1.0] * 5)


def test_a_comparison_prints_both_sides_next_to_theory():
    times = [jp.metrics.Latency(t, t, t, 25, 1, None) for t in (0.1, 0.05)]
    interval = jp.metrics.MedianInterval(2.0, 1.9, 2.1)
    found = jp.metrics.LatencyComparison(*times, interval, 8, 2.5)
    assert str(found).splitlines() == [
        "dense: 100 ms, 80 examples/s",
        "small: 50 ms, 160 examples/s",
        "speedup: 2.00 (1.90 to 2.10), in theory 2.50",
    ]
    assert "theory" not in str(found._replace(theoretical_speedup=None))
