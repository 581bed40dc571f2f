"""Runs that stop and go on: bit by bit the same, refused when they would not be, never lost."""

import contextlib
import gc
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.training import Checkpoints, Preempted
from jaxprune.training._fingerprint import describe_function
from jaxprune.training._store import Store
from tests.training import meshed, problem
from tests.training.test_portable import assert_equal

# What a failed save or restore of Orbax leaves behind complains later, also in the next
# test: when it is collected, or when a read ends that nobody waits for any more.
loud_when_collected = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)
pytestmark = loud_when_collected

STEPS, RETRAINING, CYCLES = 24, 10, 2
TOTAL = STEPS + CYCLES * RETRAINING
TRAIN = problem.loop(chunk_steps=4)


def imp(checkpoints=None, train=TRAIN, state=None, **options):
    defaults = {
        "evaluate": problem.evaluate,
        "pretraining": optax.linear_schedule(0.1, 0.0, STEPS),
        "pretraining_steps": STEPS,
        "sparsity": 0.8,
        "cycles": CYCLES,
        "retraining_steps": RETRAINING,
        "checkpoints": checkpoints,
    }
    state = problem.state() if state is None else state
    return jp.training.imp(state, train, **{**defaults, **options})


def assert_same_run(a, b):
    assert_equal(a.state, b.state)
    for one, other in zip(a.records, b.records, strict=True):
        for name in one._fields:
            if name == "metrics":
                assert_equal(one.metrics, other.metrics)
            elif name == "info":
                assert (one.info is None) == (other.info is None)
            elif name == "learning_rates":
                np.testing.assert_array_equal(one.learning_rates, other.learning_rates)
            elif name != "seconds":
                assert getattr(one, name) == getattr(other, name), name


def after(chunks):
    """A `stop` that asks to end before one chunk, counted over the run."""
    asked = iter(range(10**6))
    return lambda: next(asked) == chunks


@pytest.fixture(scope="module")
def undisturbed():
    return imp()


@pytest.mark.parametrize("chunks", [0, 1, 3, 6, 8, 11])
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
        {"optimizer_state": "fresh"},
        {"optimizer_state": "keep", "pretrain": False},
    ],
)
def test_snapshots_and_optimizer_states_come_back(tmp_path, options):
    truth = imp(**options)
    total = sum(len(record.learning_rates) for record in truth.records)
    folder = tmp_path / "run"
    stops = 0
    checkpoints = Checkpoints(folder, every=5, stop=after(2))
    while True:
        try:
            result = imp(checkpoints, **options)
            break
        except Preempted:
            stops += 1
            checkpoints = Checkpoints(folder, every=5, resume=True, stop=after(2))
    assert_same_run(result, truth)
    assert stops >= total // 12
    assert Checkpoints(folder).steps()[-1] == total


def test_saving_changes_nothing_and_keeps_the_newest(tmp_path, undisturbed):
    result = imp(Checkpoints(tmp_path, every=3, keep=3))
    assert_same_run(result, undisturbed)
    assert Checkpoints(tmp_path).steps() == [TOTAL - 5, TOTAL - 2, TOTAL]
    assert Checkpoints(tmp_path / "nothing").steps() == []


def test_an_ended_run_is_returned_and_can_be_started_anew(tmp_path, undisturbed):
    imp(Checkpoints(tmp_path, every=10))
    never = TRAIN._replace(run=lambda *a: pytest.fail("trained"))
    assert_same_run(imp(Checkpoints(tmp_path, every=10, resume=True), never), undisturbed)
    assert_same_run(imp(Checkpoints(tmp_path, every=10)), undisturbed)


def test_a_run_that_has_not_ended_is_not_thrown_away(tmp_path):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(3)))
    held = Checkpoints(tmp_path).steps()
    with pytest.raises(FileExistsError, match=r"has not ended, up to step 9.*resume\), or delete"):
        imp(Checkpoints(tmp_path, every=5))
    assert Checkpoints(tmp_path).steps() == held


def test_a_run_in_the_place_of_an_ended_one_has_not_ended(tmp_path):
    imp(Checkpoints(tmp_path, every=10))
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(3)))
    with pytest.raises(FileExistsError, match="has not ended"):
        imp(Checkpoints(tmp_path, every=5))


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_there_must_be_something_to_resume(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*to resume from"):
        imp(Checkpoints(tmp_path / folder, resume=True))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 0.9}, r"other settings \(sparsities: .*0\.8\] there, .*0\.9\] now\)"),
        ({"retraining_steps": 11}, r"retraining_steps: \[10, 10\] there, \[11, 11\] now"),
        ({"pretraining": optax.linear_schedule(0.2, 0.0, STEPS)}, "pretraining rates: '24 numbers"),
        ({"optimizer_state": "keep"}, "optimizer_state: 'fresh_once' there, 'keep' now"),
        ({"pretrain": False}, "pretrain: True there, False now"),
        ({"allocation": jp.masks.erk()}, "allocation: None there, .*erk"),
        ({"scores": lambda params: jp.scores.magnitude(params)}, "scores: .*<lambda>' now"),
    ],
)
def test_a_changed_setting_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(3)))
    with pytest.raises(ValueError, match=message):
        imp(Checkpoints(tmp_path, every=5, resume=True), **change)


def test_your_own_settings_are_compared_too(tmp_path):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, stop=after(1), settings={"data": "digits", "batch": (3, 4)}))
    changed = Checkpoints(tmp_path, resume=True, settings={"data": "mnist", "batch": (3, 4)})
    with pytest.raises(ValueError, match="data: 'digits' there, 'mnist' now"):
        imp(changed)


def test_another_model_is_refused_by_the_path_that_differs(tmp_path):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(3)))
    params = problem.params()
    params["first"]["kernel"] = jnp.pad(params["first"]["kernel"], ((0, 0), (0, 1)))
    params["first"]["bias"] = jnp.zeros(17)
    params["last"]["kernel"] = jnp.pad(params["last"]["kernel"], ((0, 1), (0, 0)))
    other = jp.training.TrainState.create(params, problem.sgd, key=jax.random.key(1))
    message = r"of another model \(parameter first/bias: 'float32\[16\]' there, 'float32\[17\]' now"
    with pytest.raises(ValueError, match=message):
        imp(Checkpoints(tmp_path, every=5, resume=True), state=other)


def test_other_versions_are_a_warning(tmp_path, undisturbed, monkeypatch):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(3)))
    from jaxprune.training import _store

    now = _store.versions()
    monkeypatch.setattr(_store, "versions", lambda: {**now, "jax": "9.9"})
    with pytest.warns(UserWarning, match=r"other versions \(jax .* -> 9\.9\)"):
        result = imp(Checkpoints(tmp_path, every=5, resume=True))
    assert_same_run(result, undisturbed)


def files(folder):
    return sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)


def truncate(folder):
    for file in files(folder / "state"):
        os.truncate(file, file.stat().st_size // 2)


def flip(folder):
    file = files(folder / "state")[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def empty(folder):
    for file in files(folder / "state"):
        os.truncate(file, 0)


def lose_arrays(folder):
    shutil.rmtree(folder / "state" / "d")


def lose_item(folder):
    shutil.rmtree(folder / "state")


def edit_text(folder):
    file = folder / "run" / "metadata"
    file.write_text(file.read_text().replace('\\"steps\\": ', '\\"steps\\": 1'))


def break_text(folder):
    (folder / "run" / "metadata").write_text("{")


def exchange_history(folder):
    shutil.rmtree(folder / "history")
    older = folder.parent / sorted(p.name for p in folder.parent.iterdir() if p.name.isdigit())[0]
    shutil.copytree(older / "history", folder / "history")


@pytest.mark.parametrize(
    "damage",
    [truncate, flip, empty, lose_arrays, lose_item, edit_text, break_text, exchange_history],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    tmp_path, undisturbed, damage
):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(5)))
    older, newest = Checkpoints(tmp_path).steps()
    damage(tmp_path / str(newest))
    heard = []
    with pytest.warns(UserWarning, match=f"of step {newest} in .* is damaged .*the one before it"):
        result = imp(Checkpoints(tmp_path, every=5, resume=True, on_resume=heard.append))
    assert_same_run(result, undisturbed)
    assert heard[0].steps == older
    assert (tmp_path / f"{newest}.damaged").is_dir()


def test_nothing_whole_is_an_error(tmp_path):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(5)))
    steps = Checkpoints(tmp_path).steps()
    for step in steps:
        truncate(tmp_path / str(step))
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint in .* can be read \(step .*; step "
    ):
        imp(Checkpoints(tmp_path, every=5, resume=True))
    assert Checkpoints(tmp_path).steps() == steps, "left as they are, for who can do more"


def test_too_little_memory_is_not_taken_for_damage(tmp_path, undisturbed, monkeypatch):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(5)))
    steps = Checkpoints(tmp_path).steps()

    def fail(*arguments):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_read", fail)
        with pytest.raises(MemoryError, match=f"of step {steps[-1]} .* does not fit into memory"):
            imp(Checkpoints(tmp_path, every=5, resume=True))
    assert Checkpoints(tmp_path).steps() == steps
    assert_same_run(imp(Checkpoints(tmp_path, every=5, resume=True)), undisturbed)


def test_a_run_that_goes_on_after_its_end_has_not_ended(tmp_path):
    """Its last checkpoint turned out damaged, so it trains again; another must not replace it."""
    imp(Checkpoints(tmp_path, every=5))
    truncate(tmp_path / str(Checkpoints(tmp_path).steps()[-1]))
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, resume=True, stop=after(0)))
    with pytest.raises(FileExistsError, match="of a run that has not ended"):
        imp(Checkpoints(tmp_path, every=5))


def test_another_state_to_rewind_to_is_refused(tmp_path):
    snapshot = problem.state()
    options = {"rewind": snapshot, "schedule": "lrw"}
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(5)), **options)
    options["rewind"] = snapshot._replace(params=jax.tree.map(lambda x: x + 1, snapshot.params))
    with pytest.raises(ValueError, match=r"rewind: 'a state, sha256 \w+' there, 'a state, sha256"):
        imp(Checkpoints(tmp_path, every=5, resume=True), **options)


@pytest.mark.parametrize("value", [pathlib.Path("data"), float("nan"), {"rate": jnp.ones(2)}])
def test_settings_that_no_file_can_hold(tmp_path, value):
    with pytest.raises(TypeError, match=r"finite numbers and words.*'where' is "):
        Checkpoints(tmp_path, settings={"fine": [1, "a"], "where": value})


def test_masks_take_a_bit_a_weight(tmp_path):
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(8)))
    import orbax.checkpoint as ocp

    step = Checkpoints(tmp_path).steps()[-1]
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(tmp_path.absolute() / str(step) / "state")
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


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the folder for checkpoints .* cannot be written"):
        imp(Checkpoints(tmp_path / "file"))


@contextlib.contextmanager
def tmpfs(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("mounting a small file system needs rights that this user has not")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path, undisturbed):
    folder = tmp_path / "small"
    with tmpfs(folder, "3m"):

        def fill():
            if Checkpoints(folder / "run").steps():
                with contextlib.suppress(OSError), (folder / "ballast").open("wb") as ballast:
                    while True:
                        ballast.write(b"0" * 4096)
            return False

        message = (
            r"of step 10 could not be written .*No space left.*newest complete one is of step 5"
        )
        with pytest.raises(OSError, match=message):
            imp(Checkpoints(folder / "run", every=5, stop=fill))
        gc.collect()
        assert Checkpoints(folder / "run").steps()
        (folder / "ballast").unlink()
        result = imp(Checkpoints(folder / "run", every=5, resume=True))
    assert_same_run(result, undisturbed)


def test_a_read_only_file_system(tmp_path):
    folder = tmp_path / "small"
    with tmpfs(folder, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(OSError, match=r"cannot be written .Read-only file system"):
            imp(Checkpoints(folder / "run"))


def nan_at(*bad):
    """A loop whose batches of some steps are NaN."""

    def batch(data, step):
        good = problem.batch_at.func(data, step)
        broken = jnp.any(jnp.asarray(bad) == step)
        return {**good, "x": jnp.where(broken, jnp.nan, good["x"])}

    step = jp.training.make_train_step(problem.loss_fn, problem.sgd)
    batches = jax.tree_util.Partial(batch, *problem.batch_at.args)
    return jp.training.make_loop(step, batches, chunk_steps=4)


def test_a_nan_loss_stops_with_the_step(tmp_path):
    message = r"the loss is NaN.* at step 32 \(step 8 of cycle 1, learning rate 0\.\d+\)"
    with pytest.raises(FloatingPointError, match=message):
        imp(train=nan_at(32))
    with pytest.raises(FloatingPointError, match=message):
        imp(Checkpoints(tmp_path, every=5), nan_at(32))
    assert Checkpoints(tmp_path).steps() == [25, 30]


def test_a_nan_loss_goes_back_and_on_with_other_batches(tmp_path):
    heard = []
    checkpoints = Checkpoints(tmp_path, every=5, on_nan="rewind", on_resume=heard.append)
    result = imp(checkpoints, nan_at(32))
    assert [resumed.steps for resumed in heard] == [30]
    assert all(np.isfinite(record.metrics["loss"]).all() for record in result.records)
    assert [len(record.metrics["loss"]) for record in result.records] == [24, 10, 10]
    assert int(result.state.step) == TOTAL + 3  # steps 30 to 32 were skipped
    with pytest.raises(FloatingPointError, match="Went back 3 times already"):
        imp(
            Checkpoints(tmp_path / "often", every=5, on_nan="rewind"),
            nan_at(*range(32, 60)),
        )
    with pytest.raises(FloatingPointError, match="There is no checkpoint to go back to"):
        imp(Checkpoints(tmp_path / "early", every=5, on_nan="rewind"), nan_at(2))


def test_options_out_of_range(tmp_path):
    for name in ("every", "keep"):
        with pytest.raises(ValueError, match=f"{name} is 0, but must be at least 1"):
            Checkpoints(tmp_path, **{name: 0})
    with pytest.raises(ValueError, match="on_nan is 'stop' or 'rewind'; got 'skip'"):
        Checkpoints(tmp_path, on_nan="skip")
    with pytest.raises(
        TypeError, match=r"checkpoints is a .*Checkpoints\(folder, \.\.\.\); got 'here'"
    ):
        imp("here")


DEVICES = ["1", "8", "2x2 sharded", "8 by pmap"]


@pytest.mark.parametrize(
    ("first", "second"), [("8 sharded", d) for d in DEVICES] + [("1", "8 sharded")]
)
def test_another_number_of_devices_goes_on(tmp_path, first, second):
    steps = meshed.steps()
    data = {"x": np.asarray(meshed.IMAGES), "y": np.asarray(meshed.LABELS)}
    evaluate = jp.training.make_evaluate(meshed.eval_fn, data, batch_size=48)

    def go(name, **options):
        train = jp.training.make_loop(steps[name], meshed.batch_at, chunk_steps=4)
        return imp(
            Checkpoints(tmp_path, every=100, **options),
            train,
            meshed.state(),
            evaluate=evaluate,
            pretraining_steps=12,
            pretraining=optax.linear_schedule(0.1, 0.0, 12),
            retraining_steps=4,
        )

    with pytest.raises(Preempted):
        go(first, stop=after(4))
    before = Checkpoints(tmp_path).steps()[-1]
    result = go(second, resume=True)
    assert before == 16
    n = 3 * 3 * 2 * 16 + 16 * 64 + 64 * 4
    assert result.records[-1].nonzero == n - round(0.8 * n)
    assert int(result.state.step) == 20


def test_other_devices_go_on_with_the_same_bits(tmp_path):
    steps = meshed.steps()
    state = steps["8 sharded"].place(meshed.state(jp.prune(meshed.state().params, 0.5)[1]))
    from jaxprune.training._store import Store

    for i, name in enumerate(("1", "8", "2x2 sharded")):
        folder = tmp_path / str(i)
        store = Store(Checkpoints(folder), {})
        store.save(3, {"state": state}, {"note": "x"})
        store.finish()
        store.close()
        store = Store(Checkpoints(folder, resume=True), {})
        like = steps[name].place(meshed.state())
        trees, run = store.restore({"state": like, "snapshot": None})
        store.close()
        assert run["note"] == "x"
        assert trees.keys() == {"state"}
        assert_equal(jax.device_get(trees["state"]._replace(key=jnp.zeros(1))),
                     jax.device_get(state._replace(key=jnp.zeros(1))))  # fmt: skip
        for a, b in zip(jax.tree.leaves(trees["state"]), jax.tree.leaves(like), strict=True):
            assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.parametrize("name", ["gmp", "dpf", "rigl"])
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
            go(Checkpoints(folder, every=6, stop=after(chunks)))
        assert_same_run(go(Checkpoints(folder, every=6, resume=True)), truth)
        assert_same_run(go(Checkpoints(folder, every=6, resume=True)), truth)
    with pytest.raises(ValueError, match="learning rates: '30 numbers"):
        go(Checkpoints(folder, every=6, resume=True), 0.04)


def test_bimp_takes_checkpoints(tmp_path):
    def go(checkpoints=None):
        return jp.training.bimp(
            problem.state(),
            TRAIN,
            evaluate=problem.evaluate,
            learning_rate=0.1,
            budget=30,
            pretraining_steps=15,
            sparsity=0.8,
            cycles=2,
            checkpoints=checkpoints,
        )

    with pytest.raises(Preempted):
        go(Checkpoints(tmp_path, every=5, stop=after(6)))
    assert_same_run(go(Checkpoints(tmp_path, every=5, resume=True)), go())


def test_arguments_of_a_method_are_compared(tmp_path):
    def go(sparsity, **options):
        method = jp.methods.gmp(sparsity, total_steps=30, interval=3)
        parts = jp.training.prepare(
            method, problem.params(), problem.loss_fn, problem.sgd, key=jax.random.key(1)
        )
        step = jp.training.make_train_step(parts.loss_fn, parts.make_optimizer)
        train = jp.training.make_loop(step, problem.batch_at, chunk_steps=4)
        return jp.training.fit(
            parts,
            train,
            evaluate=problem.evaluate,
            learning_rates=np.full(30, 0.05),
            checkpoints=Checkpoints(tmp_path, **options),
        )

    with pytest.raises(Preempted):
        go(0.9, stop=after(2))
    with pytest.raises(ValueError, match=r"sparsity: 0\.9 there, 0\.5 now"):
        go(0.5, resume=True)


def test_descriptions_see_what_functions_hold():
    erk = jp.masks.erk
    assert describe_function(erk()) == describe_function(erk())
    assert describe_function(erk()) != describe_function(erk(max_sparsity={"a": 0.8}))
    draws = [partial(jp.scores.random, jax.random.key(i)) for i in (0, 1, 0)]
    first, second, again = map(describe_function, draws)
    assert first == again != second
    assert describe_function(None) is None


def test_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path):
    """The loss of the last step is finite, and its update is not."""

    def loss_fn(params, model_state, batch, key):
        del batch, key
        return jnp.sum(params["w"] ** 2), (model_state, {})

    def go(checkpoints=None):
        sgd = lambda rate: optax.sgd(rate)  # noqa: E731
        step = jp.training.make_train_step(loss_fn, sgd)
        params = {"w": jnp.full((4, 4), 1e3)}
        state = jp.training.TrainState.create(params, sgd, key=jax.random.key(0))
        return jp.training.imp(
            state,
            jp.training.make_loop(step, jax.tree_util.Partial(lambda t: t), chunk_steps=4),
            evaluate=lambda state: {},
            pretraining=lambda t: jnp.where(t < 19, 0.0, 1e38),
            pretraining_steps=20,
            sparsity=0.5,
            retraining_steps=5,
            schedule="llr",
            checkpoints=checkpoints,
        )

    with pytest.raises(FloatingPointError, match="a weight NaN or infinite, at step 19"):
        go()
    with pytest.raises(FloatingPointError, match="at step 19"):
        go(Checkpoints(tmp_path, every=7))
    assert Checkpoints(tmp_path).steps() == [7, 14]


def test_a_nan_loss_ends_training_soon():
    heard = []
    train = nan_at(6)._replace(on_chunk=lambda first, *rest: heard.append(first))
    with pytest.raises(FloatingPointError, match=r"the loss is NaN.* at step 6 "):
        imp(train=train)
    assert heard == [0, 4, 8]  # the chunk with it, and the one that was under way


def test_rewinding_to_the_start_works_on_a_mesh(tmp_path):
    step = meshed.steps()["8"]
    train = jp.training.make_loop(step, meshed.batch_at, chunk_steps=4)
    committed = jax.device_put(meshed.state(), jax.devices()[0])
    for rewind in (0, committed):
        result = imp(
            Checkpoints(tmp_path / str(type(rewind).__name__), every=100),
            train,
            committed,
            evaluate=lambda state: {},
            rewind=rewind,
            sparsity=0.3,
            schedule="lrw",
            pretraining_steps=8,
            pretraining=optax.linear_schedule(0.1, 0.0, 8),
            retraining_steps=4,
        )
        assert len(result.state.params["Dense_0"]["bias"].sharding.device_set) == 8


def test_folders_of_buckets_are_refused():
    with pytest.raises(ValueError, match="Mount the bucket"):
        Checkpoints("gs://bucket/run")


def test_what_you_keep_in_a_checkpoint_comes_back(tmp_path):
    counter = iter(range(100))
    with pytest.raises(Preempted):
        imp(Checkpoints(tmp_path, every=5, stop=after(3), extra=lambda: {"n": [next(counter)]}))
    heard = []
    imp(Checkpoints(tmp_path, every=5, resume=True, on_resume=heard.append))
    assert heard[0].extra == {"n": (1,)}
    assert heard[0].records == ()


def test_importing_does_not_import_orbax():
    code = "import sys, jaxprune; jaxprune.training; print('orbax.checkpoint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
