"""Runs side by side, one a device."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training import problem

STEP = problem.step()
RATES = np.linspace(0.2, 0.0, 23, dtype=np.float32)


def data(seed):
    """The examples of the problem in another order, with noise: of every seed its own."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(problem.N)
    noise = 0.1 * rng.normal(size=problem.INPUTS.shape).astype(np.float32)
    return {
        "x": jnp.asarray(problem.INPUTS[order] + noise),
        "y": jnp.asarray(problem.LABELS[order]),
    }


def loop(seed=0, step=STEP, *, chunk_steps=5, on_chunk=None, compile_chunks=True):
    return _loop(seed, step, chunk_steps, compile_chunks)._replace(on_chunk=on_chunk)


@functools.cache
def _loop(seed, step, chunk_steps, compile_chunks):
    """Made once, so that what trains alone compiles once."""
    batch_at = jax.tree_util.Partial(problem.batch_of, data(seed))
    return jp.training.make_loop(
        step, batch_at, chunk_steps=chunk_steps, compile_chunks=compile_chunks
    )


@functools.cache
def params(seed):
    """On the host: nothing is to be drawn on every device."""
    return jax.device_get(problem.params(seed))


def start(seed):
    return jp.training.TrainState.create(params(seed), problem.sgd, key=jax.random.key(seed))


def steps(seed, number):
    """A run that only trains, once: the state that it begins with is there already."""
    state = start(seed)
    return lambda train: train(state, RATES[:number])


def values(tree):
    """The numbers on the host; of a random key its data."""

    def value(x):
        is_key = jnp.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(value, tree)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, values(ours), values(theirs))


def assert_lies_on(tree, device):
    assert {d for x in jax.tree.leaves(tree) for d in x.devices()} == {device}


def imp(seed, **options):
    def run(train):
        return jp.training.imp(
            start(seed),
            train,
            evaluate=problem.evaluate,
            **{
                "pretraining": optax.linear_schedule(0.1 * (seed + 1), 0.0, 20 + 7 * seed),
                "pretraining_steps": 20 + 7 * seed,
                **options,
            },
        )

    return run


RUNS = [
    imp(0, sparsity=0.5, cycles=2, retraining_steps=8),
    imp(1, sparsity=0.9, retraining_steps=13, schedule="slr"),
    imp(2, sparsity=0.7, cycles=2, retraining_steps=6, optimizer_state="keep", schedule="llr"),
]


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_run_of_imp_is_as_if_it_were_alone(number, caplog):
    runs, loops = RUNS[:number], [loop(seed) for seed in range(number)]
    with jax.log_compiles():
        results = jp.training.sweep(runs, loops, devices=jax.devices()[:2])
    # All phases of all runs of a turn are one program, for whole chunks and for what is left; a
    # turn on fewer devices is another.
    programs = [m for m in caplog.messages if "Finished XLA compilation of jit(of_one)" in m]
    assert len(programs) == (2 if number == 2 else 4)
    for i, (ours, run) in enumerate(zip(results, runs, strict=True)):
        alone = run(loops[i])
        assert_same(ours.state, alone.state)
        assert_same(ours.state.mask, alone.state.mask)
        assert len(ours.records) == len(alone.records)
        for a, b in zip(ours.records, alone.records, strict=True):
            assert_same(a.metrics, b.metrics)
            np.testing.assert_array_equal(a.learning_rates, b.learning_rates)
            assert (a.evaluation, a.evaluation_pruned) == (b.evaluation, b.evaluation_pruned)
            assert (a.discount, a.stability) == (b.discount, b.stability)
            assert (a.nonzero, a.first_step) == (b.nonzero, b.first_step)
        assert_lies_on(ours.state, jax.devices()[i % 2])
    losses = [result.records[0].metrics["loss"][0] for result in results]
    assert len(set(losses)) == number, "other data, other losses"


def test_bimp_is_as_if_it_were_alone():
    def run(seed, train):
        return jp.training.bimp(
            start(seed),
            train,
            evaluate=problem.evaluate,
            learning_rate=0.1 * (seed + 1),
            budget=40 + seed,
            pretraining_steps=21,
            sparsity=0.8,
            cycles=2,
        )

    assert_alike([jax.tree_util.Partial(run, seed) for seed in range(2)], STEP)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(jp.methods.dense(), id="dense"),
        pytest.param(jp.methods.gmp(0.5, total_steps=20), id="gmp", marks=pytest.mark.slow),
    ],
)
def test_methods_of_one_phase_are_as_if_they_were_alone(method):
    parts = [
        jp.training.prepare(
            method, params(seed), problem.loss_fn, problem.sgd, key=jax.random.key(seed)
        )
        for seed in range(2)
    ]

    def run(seed, train):
        rates = np.linspace(0.1, 0.0, 20, dtype=np.float32)
        return jp.training.fit(parts[seed], train, evaluate=problem.evaluate, learning_rates=rates)

    step = jp.training.make_train_step(parts[0].loss_fn, parts[0].make_optimizer)
    assert_alike([jax.tree_util.Partial(run, seed) for seed in range(2)], step)


def assert_alike(runs, step):
    loops = [loop(seed, step) for seed in range(len(runs))]
    results = jp.training.sweep(runs, loops, devices=jax.devices()[:2])
    for i, (ours, run) in enumerate(zip(results, runs, strict=True)):
        alone = run(loops[i])
        assert_same(ours.state, alone.state)
        for a, b in zip(ours.records, alone.records, strict=True):
            assert_same(a.metrics, b.metrics)
            assert (a.evaluation, a.nonzero) == (b.evaluation, b.nonzero)
        assert_lies_on(ours.state.params, jax.devices()[i])


def test_a_loss_that_is_nan_ends_its_run_alone():
    def run(rate, train):
        return train(start(0), [rate] * 23, stop=lambda done: False)

    runs = [jax.tree_util.Partial(run, rate) for rate in (1e30, 0.1)]
    (_, diverged), (_, fine) = jp.training.sweep(runs, [loop()] * 2, devices=jax.devices()[:2])
    assert np.isnan(diverged["loss"]).any()
    assert_same(diverged, runs[0](loop())[1])
    assert len(diverged["loss"]) < len(fine["loss"]) == 23


@pytest.mark.parametrize(
    "devices",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(8, marks=pytest.mark.slow)],
)
def test_runs_of_any_lengths_in_turns(devices):
    lengths = [23, 4, 0]
    loops = [loop(seed) for seed in range(3)]
    runs = [steps(seed, number) for seed, number in enumerate(lengths)]
    results = jp.training.sweep(runs, loops, devices=jax.devices()[:devices])
    for i, (state, metrics) in enumerate(results):
        alone, expected = steps(i, lengths[i])(loops[i])
        assert_same(state, alone)
        assert_same(metrics, expected)
        assert int(state.step) == lengths[i]
        assert_lies_on(state, jax.devices()[i % devices])


def test_all_devices_are_taken_if_none_are_named():
    results = jp.training.sweep([steps(0, 3) for _ in range(8)], [loop()] * 8)
    for device, (state, metrics) in zip(jax.devices(), results, strict=True):
        assert_lies_on(state, device)
        assert_same(metrics, results[0][1])


def test_runs_that_train_unequally_often():
    """One trains in a single call, another in many, a third not at all."""

    def often(train):
        state = start(1)
        for rate in RATES[:7]:
            state, _ = train(state, [rate])
        return state

    loops = [loop(seed) for seed in range(3)]
    ours = jp.training.sweep([steps(0, 23), often, lambda train: "nothing"], loops)
    assert_same(ours[0], steps(0, 23)(loops[0]))
    assert_same(ours[1], often(loops[1]))
    assert ours[2] == "nothing"


def test_a_run_that_fails_raises_after_the_others_ended():
    ended = []

    def fails(train):
        train(start(1), RATES[:5])
        raise FileNotFoundError("no such table")

    def ends(train):
        state, _ = train(start(0), RATES[:5])
        state, _ = train(state, RATES[5:])
        ended.append(int(state.step))

    with pytest.raises(FileNotFoundError, match="no such table") as caught:
        jp.training.sweep([ends, fails], [loop()] * 2)
    assert caught.value.__notes__ == ["in run 1 of the sweep"]
    assert ended == [23]


def test_a_run_that_fails_in_a_later_turn_has_its_own_number():
    def fails(train):
        raise KeyError("seed")

    runs = [steps(0, 1), fails]
    with pytest.raises(KeyError, match="seed") as caught:
        jp.training.sweep(runs, [loop()] * 2, devices=jax.devices()[:1])
    assert caught.value.__notes__ == ["in run 1 of the sweep"]


def test_divergence_is_that_of_its_run():
    diverges = imp(1, sparsity=0.5, retraining_steps=5, pretraining=lambda t: 1e30)
    with pytest.raises(FloatingPointError, match=r"training diverged.*the first phase") as caught:
        jp.training.sweep([steps(0, 9), diverges], [loop(0), loop(1)])
    assert caught.value.__notes__ == ["in run 1 of the sweep"]


@pytest.mark.parametrize("hook", ["on_chunk", "stop"])
def test_a_hook_that_fails_fails_its_own_run(hook):
    def full(*args):
        raise OSError("the disk is full")

    ended = []

    def ends(train):
        ended.append(int(steps(0, 9)(train)[0].step))

    def fails(train):
        train = train._replace(on_chunk=full) if hook == "on_chunk" else train
        train(start(1), RATES[:9], stop=full if hook == "stop" else None)

    with pytest.raises(OSError, match="the disk is full") as caught:
        jp.training.sweep([ends, fails], [loop(), loop()])
    assert caught.value.__notes__ == ["in run 1 of the sweep"]
    assert ended == [9]


def test_an_error_in_the_common_program_reaches_the_caller():
    other = jp.training.TrainState.create(
        {"w": jnp.ones((2, 2))}, problem.sgd, key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match=r"structure|mismatch|arity") as caught:
        jp.training.sweep([steps(0, 3), lambda train: train(other, RATES[:3])], [loop()] * 2)
    assert caught.value.__notes__[0].startswith("in run 0 of the sweep")


def test_chunks_are_reported_and_stopped_run_by_run():
    seen = {0: [], 1: []}

    def report(i):
        return lambda first, rates, metrics: seen[i].append((first, rates, metrics))

    loops = [loop(i, on_chunk=report(i)) for i in range(2)]
    asked = []

    def stop(done):
        asked.append(done)
        return done >= 10

    def stopped(train):
        state, metrics = train(start(1), RATES[:3])
        return metrics, train(state, RATES, stop=stop)

    results = jp.training.sweep([steps(0, 23), stopped], loops)
    _, losses = results[0]
    assert [first for first, _, _ in seen[0]] == [0, 5, 10, 15, 20]
    np.testing.assert_array_equal(np.concatenate([r for _, r, _ in seen[0]]), RATES)
    np.testing.assert_array_equal(
        np.concatenate([m["loss"] for _, _, m in seen[0]]), losses["loss"]
    )
    before, (state, metrics) = results[1]
    assert asked == [0, 5, 10]
    assert [first for first, _, _ in seen[1]] == [0, 3, 8]
    assert int(state.step) == 13
    np.testing.assert_array_equal(
        np.concatenate([m["loss"] for _, _, m in seen[1]]),
        np.concatenate([before["loss"], metrics["loss"]]),
    )
    alone, _ = loop(1)(loop(1)(start(1), RATES[:3])[0], RATES[:10])
    assert_same(state, alone)


def test_a_run_stopped_at_once_has_done_nothing():
    results = jp.training.sweep(
        [lambda train: train(start(0), RATES, stop=lambda done: True), steps(1, 6)],
        [loop(0), loop(1)],
    )
    state, metrics = results[0]
    assert metrics == {}
    assert_same(state, start(0))
    assert int(results[1][0].step) == 6


def test_no_runs():
    assert jp.training.sweep([], []) == []


def test_no_thread_is_left():
    jp.training.sweep([steps(0, 1), steps(1, 1)], [loop()] * 2)
    assert not [t.name for t in threading.enumerate() if "_one_run" in t.name]


def never(train):
    raise AssertionError("a run began")


def refused(message, *loops, devices=None):
    with pytest.raises(ValueError, match=message):
        jp.training.sweep([never] * len(loops), list(loops), devices=devices)


def test_bad_loops():
    with pytest.raises(ValueError, match="each run has its loop; got 2 runs and 1 loops"):
        jp.training.sweep([never] * 2, [loop()])
    alone = "from a step without a mesh"
    refused(alone, loop(step=problem.step(mesh=problem.mesh())))
    refused(alone, loop(step=problem.pmap_step(), compile_chunks=None))
    refused(alone, jp.training.make_stream_loop(STEP, lambda first: iter(())))
    again = jp.training.make_train_step(problem.loss_fn, problem.sgd)
    unequal = "loop 1 has another step or chunk length than loop 0"
    refused(unequal, loop(), loop(step=again))
    refused(unequal, loop(), loop(chunk_steps=6))
    no_partial = "the batch function of loop 1 is no jax.tree_util.Partial"
    plain = jp.training.make_loop(STEP, problem.batch_at.func, chunk_steps=5)
    refused(no_partial, loop(), plain)
    refused("the batch function of loop 0", plain, plain)
    fewer = jax.tree.map(lambda x: x[:50], data(0))
    smaller = jax.tree_util.Partial(problem.batch_of, fewer)
    refused(no_partial, loop(), jp.training.make_loop(STEP, smaller, chunk_steps=5))
    other = jax.tree_util.Partial(lambda data, step: problem.batch_of(data, step), data(0))
    refused(no_partial, loop(), jp.training.make_loop(STEP, other, chunk_steps=5))
