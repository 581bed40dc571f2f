"""Loops on batches that the host brings."""

import gc
import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.training import problem

RATES = np.linspace(0.2, 0.0, 23, dtype=np.float32)
STEP = problem.step()
BATCHES = [jax.device_get(problem.batch_at(t)) for t in range(60)]


class Stream:
    """The batches of the problem; it notes where it begins and what is taken from it."""

    def __init__(self, length=60):
        self.begun, self.taken, self.length = [], [], length

    def __call__(self, first):
        self.begun.append(first)
        return self._from(first)

    def _from(self, first):
        for t in range(first, self.length):
            self.taken.append(t)
            yield BATCHES[t]


def streamed(stream, step=STEP, **options):
    return jp.training.make_stream_loop(step, stream, **options)


def at_hand(step=STEP, **options):
    return problem.loop_of(step, chunk_steps=7, **options)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((ours, theirs)))


def assert_trains_like(train, reference):
    state, metrics = train(problem.state(), RATES)
    expected, expected_metrics = reference(problem.state(), RATES)
    assert_same(
        (state.step, state.params, state.opt_state),
        (expected.step, expected.params, expected.opt_state),
    )
    assert_same(metrics, expected_metrics)


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def alive(before):
    """Threads of streams begun since."""
    return {t for t in threading.enumerate() if "_fetch" in t.name} - before


@pytest.mark.parametrize("prefetch", [1, 2, 40])
@pytest.mark.parametrize("chunk_steps", [1, 7, 50])
def test_it_equals_the_loop_on_the_same_batches(prefetch, chunk_steps):
    train = streamed(Stream(), prefetch=prefetch, chunk_steps=chunk_steps)
    assert_trains_like(train, at_hand())


def test_eight_devices():
    step = problem.step(mesh=problem.mesh())
    assert_trains_like(streamed(Stream(), step), at_hand(step))
    placed = step.place_batch(BATCHES[0])["x"]
    assert len(placed.sharding.device_set) == 8
    assert placed.addressable_shards[0].data.shape[0] == 4


@pytest.mark.slow
def test_a_step_by_pmap():
    step = problem.pmap_step()
    assert_trains_like(streamed(Stream(), step, chunk_steps=10), at_hand(step))


def test_chunks_are_reported_in_order():
    seen = []
    report = lambda first, rates, metrics: seen.append((first, rates, metrics))  # noqa: E731
    _, metrics = streamed(Stream(), chunk_steps=10, on_chunk=report)(problem.state(), RATES)
    assert [first for first, _, _ in seen] == [0, 10, 20]
    np.testing.assert_array_equal(np.concatenate([rates for _, rates, _ in seen]), RATES)
    assert_same(np.concatenate([m["loss"] for _, _, m in seen]), metrics["loss"])


def test_one_stream_serves_calls_that_follow_each_other():
    stream = Stream()
    train = streamed(stream)
    state, parts = problem.state(), []
    for rates in (RATES[:5], RATES[:0], RATES[5:6], RATES[6:]):
        state, metrics = train(state, rates)
        parts.append(metrics)
    assert stream.begun == [0]
    expected, metrics = at_hand()(problem.state(), RATES)
    assert_same(state.params, expected.params)
    assert_same(np.concatenate([m["loss"] for m in parts if m]), metrics["loss"])


def test_a_jump_begins_a_stream_anew():
    stream = Stream()
    train = streamed(stream)
    train(problem.state(), RATES[:5])
    for first in (30, 0):
        start = problem.state()
        start = start._replace(step=start.step + first)
        state, _ = train(start, RATES)
        start = problem.state()
        expected, _ = at_hand()(start._replace(step=start.step + first), RATES)
        assert_same(state.params, expected.params)
    assert stream.begun == [0, 30, 0]


def test_two_loops_of_one_stream_do_not_meet():
    stream = Stream()
    first, second = streamed(stream), streamed(stream)
    a, _ = first(problem.state(), RATES[:10])
    b, _ = second(problem.state(), RATES)
    a, _ = first(a, RATES[10:])
    assert_same(a.params, b.params)
    assert stream.begun == [0, 0]


@pytest.mark.parametrize("prefetch", [1, 3])
def test_the_source_is_ahead_but_not_far(prefetch):
    stream, ahead = Stream(), []
    compiled = STEP.compiled

    def step(state, batch, rate):
        done = len(ahead) + 1  # batches handed to a step, this one included
        wait_until(lambda: len(stream.taken) >= done + prefetch)  # while this step runs
        time.sleep(0.02)  # would the source go on, it would now
        ahead.append(len(stream.taken) - done)
        return compiled(state, batch, rate)

    train = streamed(stream, STEP._replace(compiled=step), prefetch=prefetch)
    train(problem.state(), RATES[:8])
    # In the queue `prefetch`, and one in the hands of the thread, which waits for room.
    assert all(prefetch <= n <= prefetch + 1 for n in ahead), ahead


def test_batches_are_placed_by_the_thread():
    where = []

    def place(batch):
        where.append(threading.current_thread().name)
        return STEP.place_batch(batch)

    streamed(Stream(), STEP._replace(place_batch=place))(problem.state(), RATES[:3])
    assert len(where) >= 3
    assert all("_fetch" in name for name in where)


class BrokenRecordError(Exception):
    """Raised by a reader."""


def test_what_the_stream_raises_reaches_the_caller():
    def stream(first):
        yield from BATCHES[first:4]
        raise BrokenRecordError("record 4 is damaged")

    train = streamed(stream, prefetch=5)
    with pytest.raises(BrokenRecordError, match="record 4 is damaged"):
        train(problem.state(), RATES)
    # Up to there it trains, and the next call begins a stream of its own.
    state, _ = train(problem.state(), RATES[:4])
    assert_same(state.params, at_hand()(problem.state(), RATES[:4])[0].params)
    with pytest.raises(BrokenRecordError):
        train(state, RATES[:1])


def test_what_making_a_stream_raises_reaches_the_caller():
    calls = []

    def stream(first):
        calls.append(first)
        if len(calls) == 1:
            raise FileNotFoundError("no such shard")
        return iter(BATCHES[first:])

    train = streamed(stream)
    with pytest.raises(FileNotFoundError, match="no such shard"):
        train(problem.state(), RATES)
    done = []
    again = threading.Thread(target=lambda: done.append(train(problem.state(), RATES)), daemon=True)
    again.start()
    again.join(20)
    assert done, "waits for batches that nobody brings"
    assert_same(done[0][0].params, at_hand()(problem.state(), RATES)[0].params)
    assert calls == [0, 0]


def test_a_batch_that_cannot_be_placed_reaches_the_caller():
    step = problem.step(mesh=problem.mesh())
    odd = jax.tree.map(lambda x: x[:30], BATCHES[0])  # eight devices do not divide it
    with pytest.raises(ValueError, match="30"):
        streamed(lambda first: itertools.repeat(odd), step)(problem.state(), RATES)


@pytest.mark.parametrize("length", [0, 5])
def test_a_stream_that_ends_early(length):
    with pytest.raises(ValueError, match=f"the stream of batches ended before step {length}"):
        streamed(Stream(length))(problem.state(), RATES)


def test_a_stream_as_long_as_the_training():
    state, _ = streamed(Stream(23), prefetch=4)(problem.state(), RATES)
    assert int(state.step) == 23


def test_bad_input():
    with pytest.raises(ValueError, match="prefetch is at least 1 batch ahead; got 0"):
        streamed(Stream(), prefetch=0)
    with pytest.raises(ValueError, match="chunk_steps is at least 1 step; got 0"):
        streamed(Stream(), chunk_steps=0)
    with pytest.raises(ValueError, match="learning_rates is a one-dimensional array"):
        streamed(Stream())(problem.state(), 0.1)


def test_it_stops_between_chunks_and_goes_on():
    stream, asked = Stream(), []

    def stop(done):
        asked.append(done)
        return done >= 10

    train = streamed(stream, chunk_steps=5)
    state, metrics = train(problem.state(), RATES, stop=stop)
    assert asked == [0, 5, 10]
    assert int(state.step) == len(metrics["loss"]) == 10
    state, _ = train(state, RATES[10:])
    assert_same(state.params, at_hand()(problem.state(), RATES)[0].params)
    assert stream.begun == [0]


def test_imp_on_a_stream():
    options = {
        "evaluate": problem.evaluate,
        "pretraining": lambda t: 0.1,
        "pretraining_steps": 20,
        "sparsity": 0.8,
        "cycles": 2,
        "retraining_steps": 10,
        "recalibrate": None,
    }
    stream = Stream()
    ours = jp.training.imp(problem.state(), streamed(stream), **options)
    theirs = jp.training.imp(problem.state(), at_hand(), **options)
    assert stream.begun == [0], "phases follow each other"
    assert_same((ours.state.params, ours.state.mask), (theirs.state.params, theirs.state.mask))
    for a, b in zip(ours.records, theirs.records, strict=True):
        assert_same(a.metrics, b.metrics)
        assert a.evaluation == b.evaluation


def test_the_thread_of_an_abandoned_stream_ends():
    train = streamed(lambda first: itertools.repeat(BATCHES[0]))
    before = alive(set())
    for _ in range(3):  # each from step 0, where the one before did not stop
        train(problem.state(), RATES[:3])
    wait_until(lambda: len(alive(before)) == 1)
    del train  # nobody closes it
    gc.collect()
    wait_until(lambda: not alive(before))


def test_a_loop_that_is_closed_ends_its_thread_and_its_stream():
    closed = []

    def stream(first):
        try:
            yield from BATCHES[first:]
        finally:
            closed.append(threading.current_thread().name)

    before = alive(set())
    train = streamed(stream)
    train.close()  # nothing is open yet
    state, _ = train(problem.state(), RATES[:3])
    train.close()
    assert not alive(before)
    assert len(closed) == 1
    assert "_fetch" in closed[0], "a generator is closed where it runs"
    state, _ = train(state, RATES[3:])  # opens it again
    assert_same(state.params, at_hand()(problem.state(), RATES)[0].params)
    train.close()
    train.close()
    assert not alive(before)


def test_a_stream_in_mid_batch_is_abandoned_too(monkeypatch):
    gate, join = threading.Event(), threading.Thread.join

    def soon(thread, timeout=None):
        assert timeout is not None, "it may wait for ever"
        join(thread, min(timeout, 0.1))

    monkeypatch.setattr(threading.Thread, "join", soon)

    def stream(first):
        yield BATCHES[0]
        gate.wait()
        yield from itertools.repeat(BATCHES[0])

    train = streamed(stream)
    before = alive(set())
    train(problem.state(), RATES[:1])
    with pytest.warns(UserWarning, match=r"a stream did not end within \d+ s"):
        train(problem.state(), RATES[:1])
    gate.set()
    wait_until(lambda: len(alive(before)) == 1)


def loops(chunk_steps, **options):
    return {
        "stream": lambda: streamed(Stream(), chunk_steps=chunk_steps, **options),
        "dispatched": lambda: problem.loop(chunk_steps=chunk_steps, **options),
        "compiled": lambda: problem.loop(compile_chunks=True, chunk_steps=chunk_steps, **options),
    }


# The ways to wait for an array and to read it.
READS = ("__array__", "__bool__", "__float__", "__index__", "__int__", "item", "tolist")
WAITS = ("block_until_ready",)


@pytest.mark.parametrize("kind", ["stream", "dispatched", "compiled"])
@pytest.mark.parametrize(("steps", "chunk_steps"), [(23, 7), (21, 7), (3, 7)])
def test_metrics_are_fetched_once_a_chunk(kind, steps, chunk_steps, monkeypatch):
    """No step waits for the host: of what the steps compute nothing else is read."""
    train = loops(chunk_steps)[kind]()
    state = problem.state()
    fetched, fetch = [], jax.device_get
    fetching, alone = [], []  # what is read inside a fetch, and in another way

    def counted(tree):
        fetched.append(tree)
        fetching.append(True)
        try:
            return fetch(tree)
        finally:
            fetching.pop()

    def noted(name, method):
        def read(x, *arguments, **options):
            if not fetching:
                alone.append(name)
            return method(x, *arguments, **options)

        return read

    monkeypatch.setattr(jax, "device_get", counted)
    array = type(state.step)
    for name in (*READS, *WAITS):
        monkeypatch.setattr(array, name, noted(name, getattr(array, name)))
    float(jnp.ones(())), jnp.ones(3).block_until_ready()
    assert alone == ["__float__", "block_until_ready"], "such reads are seen"
    alone.clear()
    train(state, RATES[:steps])
    chunks = -(-steps // chunk_steps)
    of_metrics = [tree for tree in fetched if isinstance(tree, (dict, list))]
    assert len(of_metrics) == chunks
    assert len(fetched) == chunks
    assert alone == []


def test_the_length_of_a_whole_chunk_is_known_to_the_compiler():
    """A GPU asks the host after every turn of a loop that may end at any."""
    train = problem.loop(compile_chunks=True, chunk_steps=7)
    arguments = (problem.state(), train.batch_at, np.zeros(7, np.float32))
    whole = train.compiled.lower(*arguments, None).compile().as_text()
    assert '"known_trip_count":{"n":"7"}' in whole
    part = train.compiled.lower(*arguments, np.int32(3)).compile().as_text()
    assert '"known_trip_count":{"n":"7"}' not in part


def test_batches_of_the_host_are_put_on_the_devices():
    for step in (STEP, problem.pmap_step()):
        placed = step.place_batch(jax.tree.map(np.asarray, BATCHES[0]))
        for leaf in jax.tree.leaves(placed):
            assert isinstance(leaf, jax.Array)
            assert len(leaf.devices()) == (1 if step is STEP else 8)


@pytest.mark.parametrize("kind", ["stream", "dispatched", "compiled"])
def test_a_chunk_begins_before_the_metrics_of_the_last_are_fetched(kind):
    events = []

    def report(first, rates, metrics):
        events.append(("report", first))

    def stop(done):
        events.append(("begin", done))
        return False

    train = loops(7, on_chunk=report)[kind]()
    train(problem.state(), RATES[:21], stop=stop)
    assert events == [
        ("begin", 0),
        ("begin", 7),
        ("report", 0),
        ("begin", 14),
        ("report", 7),
        ("report", 14),
    ]


def test_the_error_names_the_step_of_the_run():
    start = problem.state()
    start = start._replace(step=start.step + 33)
    with pytest.raises(ValueError, match="ended before step 35"):
        streamed(Stream(35))(start, RATES)
