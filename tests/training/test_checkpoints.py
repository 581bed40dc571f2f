"""Runs that stop and go on: bit by bit the same, each checkpoint the newest one."""

import os
import subprocess
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxprune as jp
from jaxprune.training import Checkpoints, Preempted
from tests.training import problem
from tests.training.checkpointed import (
    STEPS,
    TOTAL,
    TRAIN,
    after,
    assert_same_run,
    imp,
    loud_when_collected,
)

pytestmark = loud_when_collected

slow = pytest.mark.slow


@pytest.mark.parametrize(
    "chunks",
    [
        0,
        pytest.param(1, marks=slow),
        pytest.param(3, marks=slow),
        6,  # between two phases
        8,
        pytest.param(11, marks=slow),
    ],
)
def test_a_run_that_was_stopped_ends_as_if_it_never_was(tmp_path, undisturbed, chunks):
    with pytest.raises(Preempted, match="Resume to go on") as stopped:
        imp(Checkpoints(tmp_path, every=7, stop=after(chunks)))
    assert Checkpoints(tmp_path).steps()[-1] == stopped.value.steps
    heard = []
    result = imp(Checkpoints(tmp_path, every=7, resume=True, on_resume=heard.append))
    assert_same_run(result, undisturbed)
    assert [resumed.steps for resumed in heard] == [stopped.value.steps]


@pytest.mark.parametrize(
    "options",
    [
        {"rewind": 9, "schedule": "lrw", "retraining_steps": STEPS - 9},
        pytest.param({"optimizer_state": "fresh"}, marks=slow),
        {"optimizer_state": "keep", "pretrain": False},
    ],
)
def test_snapshots_and_optimizer_states_come_back(tmp_path, options):
    truth = imp(**options)
    total = sum(len(record.learning_rates) for record in truth.records)
    folder = tmp_path / "run"
    stops = 0
    checkpoints = Checkpoints(folder, every=100, stop=after(3))
    while True:
        try:
            result = imp(checkpoints, **options)
            break
        except Preempted:
            stops += 1
            checkpoints = Checkpoints(folder, every=100, resume=True, stop=after(3))
    assert_same_run(result, truth)
    assert stops >= total // 12
    assert Checkpoints(folder).steps()[-1] == total


def test_saving_changes_nothing_and_keeps_the_newest(tmp_path, undisturbed):
    result = imp(Checkpoints(tmp_path, every=21, keep=3))
    assert_same_run(result, undisturbed)
    # Of those after 21, 24, 34, 42 and 44 steps: at the end of every phase there is one, too.
    assert Checkpoints(tmp_path).steps() == [TOTAL - 10, TOTAL - 2, TOTAL]
    assert Checkpoints(tmp_path / "nothing").steps() == []


def test_an_ended_run_is_returned_and_can_be_started_anew(ended, undisturbed):
    never = TRAIN._replace(run=lambda *a: pytest.fail("trained"))
    assert_same_run(imp(Checkpoints(ended, every=10, resume=True), never), undisturbed)
    assert_same_run(imp(Checkpoints(ended, every=100)), undisturbed)


def test_a_run_that_has_not_ended_is_not_thrown_away(stopped):
    held = Checkpoints(stopped).steps()
    with pytest.raises(FileExistsError, match=r"has not ended, up to step 14.*resume\), or delete"):
        imp(Checkpoints(stopped, every=5))
    assert Checkpoints(stopped).steps() == held


def test_a_run_in_the_place_of_an_ended_one_has_not_ended(ended):
    with pytest.raises(Preempted):
        imp(Checkpoints(ended, every=100, stop=after(3)))
    with pytest.raises(FileExistsError, match="has not ended"):
        imp(Checkpoints(ended, every=5))


def test_what_you_keep_in_a_checkpoint_comes_back(stopped):
    heard = []
    with pytest.raises(Preempted):
        imp(Checkpoints(stopped, resume=True, on_resume=heard.append, stop=after(0)))
    assert heard[0].extra == {"n": (2,)}, "that of the third checkpoint"
    assert heard[0].records == ()


def test_masks_take_a_bit_a_weight(ended):
    step = Checkpoints(ended).steps()[-1]
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(ended / str(step) / "state")
    bits = {name: x for name, x in arrays.items() if "/mask/" in name}
    assert sum(x.nbytes for x in bits.values()) == (6 * 16 + 16 * 3) // 8
    np.testing.assert_array_equal(arrays["state/params/first/kernel"] == 0, ~np.unpackbits(
        bits["state/opt_state/mask/tree/first/kernel"], axis=-1, bitorder="little"
    ).astype(bool))  # fmt: skip


def test_one_run_at_a_time(tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    def wait(resumed=None):
        inside.set()
        assert go_on.wait(60)
        return False

    first = threading.Thread(target=lambda: imp(Checkpoints(tmp_path, stop=wait)))
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(
            BlockingIOError, match=rf"in use by another run \(process {os.getpid()}"
        ):
            imp(Checkpoints(tmp_path))
    finally:
        go_on.set()
        first.join()
    imp(Checkpoints(tmp_path))  # free again


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gmp", pytest.param("dpf", marks=slow), pytest.param("rigl", marks=slow)]
)
def test_methods_of_one_phase_go_on_too(tmp_path, name):
    options = {"total_steps": 30, "interval": 3}
    if name == "rigl":
        options["key"] = jax.random.key(5)
    method = jp.methods.METHODS[name](0.7, **options)
    parts = jp.training.prepare(
        method, problem.params(), problem.loss_fn, problem.sgd, key=jax.random.key(1)
    )
    step = jp.training.make_train_step(parts.loss_fn, parts.make_optimizer)
    train = jp.training.make_loop(step, problem.batch_at, chunk_steps=4)

    def go(checkpoints=None, rate=0.05):
        return jp.training.fit(
            parts,
            train,
            evaluate=problem.evaluate,
            learning_rates=np.full(30, rate, np.float32),
            checkpoints=checkpoints,
        )

    truth = go()
    for chunks in (2, 5):
        folder = tmp_path / str(chunks)
        with pytest.raises(Preempted):
            go(Checkpoints(folder, every=100, stop=after(chunks)))
        assert_same_run(go(Checkpoints(folder, every=100, resume=True)), truth)
    # The end comes back, too.
    assert_same_run(go(Checkpoints(folder, every=100, resume=True)), truth)
    with pytest.raises(ValueError, match="learning rates: '30 numbers"):
        go(Checkpoints(folder, every=100, resume=True), 0.04)


def test_bimp_takes_checkpoints(tmp_path):
    def go(checkpoints=None):
        return jp.training.bimp(
            problem.state(),
            TRAIN,
            evaluate=problem.evaluate,
            learning_rate=0.1,
            budget=44,
            pretraining_steps=24,
            sparsity=0.8,
            cycles=2,
            checkpoints=checkpoints,
        )

    with pytest.raises(Preempted):
        go(Checkpoints(tmp_path, every=100, stop=after(8)))
    assert_same_run(go(Checkpoints(tmp_path, every=100, resume=True)), go())


def test_importing_does_not_import_orbax():
    code = "import sys, jaxprune; jaxprune.training; print('orbax.checkpoint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
