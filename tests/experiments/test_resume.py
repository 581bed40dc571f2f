"""Runs that are stopped, killed and resumed, as the command line has them."""

import collections
import dataclasses
import gc
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import data, devices, job, reports, run, torture
from experiments.config import Config
from experiments.setup import build
from jaxprune.training import Checkpoints, Preempted
from tests.experiments._processes import ARGUMENTS, environment
from tests.experiments._streams import write_numbered
from tests.training.checkpointed import after, loud_when_collected
from tests.training.test_checkpoints_damage import tmpfs

pytestmark = pytest.mark.usefixtures("jax_defaults")

SMALL = Config(
    model="lenet_300_100",
    epochs=2,
    retrain_epochs=1,
    cycles=2,
    batch_size=128,
    checkpoint_epochs=1,
)


def go(folder, stop=None, **options):
    config = dataclasses.replace(SMALL, run_dir=folder, **options)
    return job.run(config, console=Console(file=io.StringIO(), width=120), stop=stop)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm") / "run"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        go(folder)
    return folder


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("chunks", [2, *slow(0, 1, 3)])
def test_a_stopped_run_ends_with_the_same_files(tmp_path, calm, chunks):
    folder = tmp_path / "run"
    with pytest.raises(Preempted):
        go(folder, after(chunks))
    go(folder, resume=True)
    torture.compare(calm, folder)
    for picture in ("accuracy.png", "learning_rate.png", "weights.png"):
        assert (folder / picture).read_bytes() == (calm / picture).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gmp", *slow("str")])
def test_methods_of_one_phase_resume_too(tmp_path, method):
    options = {"method": method, **({"initial": -4.0} if method == "str" else {})}
    go(tmp_path / "calm", **options)
    with pytest.raises(Preempted):
        go(tmp_path / "run", after(3), **options)
    go(tmp_path / "run", resume=True, **options)
    torture.compare(tmp_path / "calm", tmp_path / "run")


@pytest.mark.slow
def test_lines_after_the_checkpoint_are_cut_off(tmp_path, calm):
    folder = tmp_path / "run"
    with pytest.raises(Preempted):
        go(folder, after(1))
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "train", "step": 999}\n{"kind": "tr')
    go(folder, resume=True)
    torture.compare(calm, folder)


@pytest.mark.slow
def test_a_log_that_lost_lines_is_refused(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Preempted):
        go(folder, after(1))
    os.truncate(folder / "metrics.jsonl", 10)
    with pytest.raises(ValueError, match=r"has 10 bytes, but had \d+ when the checkpoint was made"):
        go(folder, resume=True)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="is gone, so the run cannot be resumed"):
        go(folder, resume=True)


@pytest.mark.slow
def test_resume_refuses_what_it_cannot_do(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"holds no run to resume\. Leave --resume out"):
        go(folder, resume=True)
    assert not folder.exists()
    with pytest.raises(Preempted):
        go(folder, after(1))
    with pytest.raises(FileExistsError, match=r"another configuration \(seed: 0 there, 1 now\)"):
        go(folder, resume=True, seed=1)
    with pytest.raises(FileExistsError, match="has not ended, up to step"):
        go(folder)


def test_an_ended_run_is_only_shown_again(tmp_path, calm, monkeypatch):
    before = (calm / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(reports.Progress, "chunk", lambda *a: pytest.fail("trained"))
    result = go(calm, resume=True)
    assert [record.phase for record in result.records] == ["dense", "cycle 1", "cycle 2"]
    assert (calm / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_two_runs_on_one_folder(tmp_path):
    inside, go_on = threading.Event(), threading.Event()
    failures = []

    def wait():
        inside.set()
        assert go_on.wait(60)
        return False

    def first():
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            try:
                go(tmp_path / "run", wait)
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(BlockingIOError, match="in use by another run"):
            go(tmp_path / "run")
    finally:
        go_on.set()
        thread.join()
    assert not failures
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()


@pytest.mark.slow
def test_a_diverged_run_says_where(tmp_path, capsys):
    arguments = [*ARGUMENTS, "--learning-rate", "1e30", "--run-dir", str(tmp_path / "run")]
    assert run.main(arguments) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"NaN.* at step \d+ \(step \d+ of the first phase, learning rate 1e\+30\)", out
    )


def rows_of(folder):
    """The rows of metrics.jsonl; NaN is no JSON."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


@pytest.fixture
def broken_batch(monkeypatch):
    """Breaks the batches of some steps."""
    right = data.make_batch_at

    def break_at(*steps):
        def batch_at(inner, t):
            batch, broken = inner(t), jnp.isin(t, jnp.array(steps))
            return {**batch, "image": jnp.where(broken, jnp.nan, batch["image"])}

        monkeypatch.setattr(
            data, "make_batch_at", lambda *a, **k: jax.tree_util.Partial(batch_at, right(*a, **k))
        )

    return break_at


@pytest.mark.slow
def test_a_run_that_goes_back_after_a_nan_logs_every_step_once(tmp_path, calm, broken_batch):
    broken_batch(14, 39)
    options = ["--batch-size", "128", "--checkpoint-epochs", "1", "--on-nan", "rewind"]
    assert run.main([*ARGUMENTS, *options, "--run-dir", str(tmp_path / "run")]) == 0
    rows, others = rows_of(tmp_path / "run"), rows_of(calm)
    # An epoch has ten steps, and ten are made up for with the batches after the one that failed.
    kinds = [(row["kind"], row["cycle"]) for row in others]
    assert [(row["kind"], row["cycle"]) for row in rows] == kinds
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == [*range(10), *range(15, 35), *range(40, 50)]
    rates = [[r["learning_rate"] for r in x if r["kind"] == "train"] for x in (rows, others)]
    assert rates[0][:20] == rates[1][:20]  # those of retraining depend on the weights
    assert None not in [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.slow
def test_nothing_follows_a_nan_loss(tmp_path, broken_batch, capsys):
    broken_batch(14)
    options = ["--batch-size", "128", "--epochs", "4"]
    assert run.main([*ARGUMENTS, *options, "--run-dir", str(tmp_path / "run")]) == 2
    assert "the loss is NaN, or a weight NaN or infinite, at step 14" in " ".join(
        capsys.readouterr().out.split()
    )
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [10]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [*range(20)]
    assert [row["loss"] is None for row in rows if "loss" in row] == [False] * 14 + [True] * 6


@pytest.mark.slow
@loud_when_collected
def test_a_full_disk_is_one_clear_error(tmp_path, calm):
    folder = tmp_path / "small"
    with tmpfs(folder, "8m"):

        def fill():
            if Checkpoints(folder / "run" / "checkpoints").steps():
                try:
                    with (folder / "ballast").open("ab") as ballast:
                        while True:
                            ballast.write(b"0" * 4096)
                except OSError:
                    pass
            return False

        with pytest.raises(OSError, match=r"could not be written|cannot be written"):
            go(folder / "run", fill)
        gc.collect()
        (folder / "ballast").unlink()
        go(folder / "run", resume=True)
        torture.compare(calm, folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"devices": 8}, *slow({"devices": 2, "parallel": "pmap"})])
def test_several_devices_agree_with_one(tmp_path, calm, options):
    result = go(tmp_path / "run", **options)
    rows, others = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (calm, tmp_path / "run")
    )
    for row, other in zip(rows, others, strict=True):
        assert (row["kind"], row["step"]) == (other["kind"], other["step"])
        if row["kind"] == "train" and row["step"] < 20:
            assert other["loss"] == pytest.approx(row["loss"], abs=1e-4)
    assert [r.nonzero for r in result.records] == [50200, 11225, 2510]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    with pytest.raises(Preempted):
        go(tmp_path / "run", after(2), devices=4, parallel="fsdp")
    assert go(tmp_path / "run", resume=True).records[-1].nonzero == 2510


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "9", "--batch-size", "63"], "devices=9, but there are 8 (cpu)"),
        (["--devices", "0"], "devices is at least 1; got 0"),
        (["--devices", "3"], "batch_size=64 cannot be split over devices=3 and accumulate=1"),
        (["--accumulate", "3"], "accumulate=3; take a multiple of 3"),
        (["--process-id", "1"], "process_id means nothing without a coordinator"),
        (["--coordinator", "localhost"], "coordinator is HOST:PORT; got 'localhost'"),
        (["--coordinator", "localhost:1"], "no num_processes; pass it, or set JAX_NUM_PROCESSES"),
        (
            ["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
            "process_id is an index in [0, 2) of num_processes; got 2",
        ),
        (
            ["--coordinator", "auto", "--num-processes", "2"],
            "coordinator auto asks the cluster for num_processes; leave out --num-processes",
        ),
        (["--coordinator", "auto", "--process-id", "0"], "leave out --process-id"),
        (
            ["--coordinator", "auto", "--join-seconds", "7"],
            "the cluster did not say which processes belong together, or they did not come within "
            "7 s",
        ),
        (["--workers", "2"], "workers means nothing without stream; got 2"),
        (["--stream"], "the digits are embedded"),
        (["--stream", "--data", "cifar10", "--recalibrate"], "recalibrate needs the set in memory"),
        (["--checkpoint-epochs", "0"], "checkpoint_epochs is at least 1 and finite; got 0"),
    ],
)
def test_bad_input(tmp_path, arguments, message, capsys):
    assert run.main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert message in out
    assert "Traceback" not in out
    assert not (tmp_path / "run").exists()


def test_the_cluster_is_waited_for_as_long_as_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **known: asked.append(known))
    monkeypatch.setattr(devices, "_check_agreement", lambda config: asked.append(config))
    config = dataclasses.replace(SMALL, coordinator="auto", join_seconds=7)
    devices.join(config)
    assert asked == [{"initialization_timeout": 7}, config]


def test_an_interrupted_process_does_not_wait_for_the_others(tmp_path, monkeypatch, capsys):
    left = []

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", interrupt)
    monkeypatch.setattr(devices, "leave", left.append)
    assert run.main([*ARGUMENTS, "--run-dir", str(tmp_path / "run")]) == 130
    assert left == [130]
    assert "Interrupted; there is no checkpoint" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_fit_is_one_clear_error(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise MemoryError("the checkpoint of step 5 does not fit into memory")

    monkeypatch.setattr(job, "run", fail)
    assert run.main([*ARGUMENTS, "--run-dir", str(tmp_path / "run")]) == 2
    assert "Error: the checkpoint of step 5 does not fit" in capsys.readouterr().out


@pytest.mark.slow
def test_a_streamed_run_resumes_in_the_middle_of_an_epoch(tmp_path):
    options = {
        "data": "tiny",
        "data_dir": write_numbered(tmp_path / "data"),
        "stream": True,
        "batch_size": 4,
        "eval_batch_size": 5,
        "sparsity": 0.5,
    }
    result = go(tmp_path / "calm", **options)
    assert [len(r.metrics["loss"]) for r in result.records] == [22, 11, 11]
    with pytest.raises(Preempted):
        go(tmp_path / "run", after(1), **options)
    go(tmp_path / "run", resume=True, **options)
    torture.compare(tmp_path / "calm", tmp_path / "run")


@pytest.mark.slow
def test_photographs_are_streamed_by_workers_to_the_end(tmp_path, capsys):
    where = ["--data", "tiny", "--data-dir", str(write_numbered(tmp_path / "data"))]
    small = ["--batch-size", "8", "--eval-batch-size", "5", "--cycles", "1", "--epochs", "1"]
    how = ["--stream", "--workers", "1", "--preprocess", "imagenet", "--image-size", "32"]
    folder = tmp_path / "run"
    assert run.main([*ARGUMENTS, *where, *small, *how, "--run-dir", str(folder)]) == 0
    assert re.search(r"First step done \d+\.\d s after the start\.", capsys.readouterr().out)
    # 45 images to train on: 5 steps an epoch.
    assert [row["kind"] for row in rows_of(folder)] == [*["train"] * 5, "validation", "phase"] * 2
    assert (folder / "weights.png").exists()


@pytest.mark.parametrize(
    ("preprocess", "evaluating", "shape"),
    [("imagenet", 2, (32, 32, 3)), ("crop_flip", 0, (6, 5, 3)), ("auto", 0, (6, 5, 3))],
)
def test_only_photographs_are_evaluated_by_workers(
    tmp_path, monkeypatch, preprocess, evaluating, shape
):
    workers = []

    def noted(make):
        def made(*args, **options):
            stream = make(*args, **options)
            assert stream.image_shape == shape
            workers.append(stream.workers)
            return stream

        return made

    for name in ("make_stream", "make_evaluation_stream"):
        monkeypatch.setattr(data, name, noted(getattr(data, name)))
    options = {"data": "tiny", "data_dir": write_numbered(tmp_path), "stream": True, "workers": 2}
    options |= {"batch_size": 4, "preprocess": preprocess}
    if preprocess == "imagenet":
        options["image_size"] = 32
    build(dataclasses.replace(SMALL, **options))
    assert workers == [2, evaluating, evaluating]


@pytest.mark.slow
def test_a_profile_shows_that_no_step_waits_for_the_host(tmp_path):
    go(tmp_path / "run", profile=True, epochs=4, batch_size=32)
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    names = collections.Counter(e.name for p in planes for line in p.lines for e in line.events)
    fetches = sum(n for name, n in names.items() if name.endswith(" device_get"))
    assert 0 < fetches <= 4, "of a chunk of 40 steps and the validation after it"
    assert not [name for name in names if "block_until_ready" in name]


@pytest.mark.slow
def test_killed_runs_lose_nothing(tmp_path):
    arguments = ("--kills", "4", "--out", str(tmp_path / "torture"))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.torture", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference" in done.stdout


def _change_the_network(folder):
    path = folder / "final.safetensors"
    variables, mask = jp.load(path)
    kernel = variables["params"]["Dense_0"]
    kernel["kernel"] = np.nextafter(kernel["kernel"], np.inf)
    jp.save(path, variables, mask)


def test_the_torture_sees_differences(tmp_path, calm):
    for i, change in enumerate(_CHANGES):
        victim = tmp_path / str(i)
        shutil.copytree(calm, victim)
        torture.compare(calm, victim)
        change(victim)
        with pytest.raises(torture.Difference):
            torture.compare(calm, victim)


def _double_a_line(folder):
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines, lines[-1]]))


def _lose_a_line(folder):
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:5], *lines[6:]]))


def _change_a_number(folder):
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text().replace('"accuracy": 0.', '"accuracy": 0.0', 1))


def _flip_a_bit(folder):
    import orbax.checkpoint as ocp

    step, arrays = torture.final_arrays(folder)
    name = next(name for name in arrays if name.endswith("kernel"))
    arrays[name] = np.nextafter(arrays[name], np.inf)
    state = pathlib.Path(folder / "checkpoints" / str(step) / "state").absolute()
    with ocp.StandardCheckpointer() as writer:
        writer.save(state, arrays, force=True)


_CHANGES = (_double_a_line, _lose_a_line, _change_a_number, _flip_a_bit, _change_the_network)
