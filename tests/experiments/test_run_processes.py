"""The main job as real processes: one that is told to end, and two that are one run."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from experiments import torture
from jaxprune.training import Checkpoints
from tests.experiments._processes import ends, start, start_two, wait_for
from tests.experiments.test_resume import go

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("jax_defaults")]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def has_trained(folder):
    log = folder / "metrics.jsonl"
    return lambda: log.exists() and log.stat().st_size > 0


def test_sigterm_saves_exits_with_143_and_loses_nothing(tmp_path):
    calm, folder = tmp_path / "calm", tmp_path / "run"
    long = ("--epochs", "60", "--checkpoint-epochs", "60")
    undisturbed, process = start(calm, *long), start(folder, *long)
    wait_for(has_trained(folder), [process])
    process.send_signal(signal.SIGTERM)
    [(status, out)] = ends([process])
    assert status == 143, out
    assert "asked to end after" in out
    (saved,) = Checkpoints(folder / "checkpoints").steps()
    assert saved < 60 * 20
    assert max(row["step"] for row in rows_of(folder) if row["kind"] == "train") == saved - 1
    for status, out in ends([undisturbed, start(folder, *long, "--resume")]):
        assert status == 0, out
    torture.compare(calm, folder)


@pytest.mark.parametrize(
    ("field", "values"), [("seed", ("0", "1")), ("num-processes", ("2", "3")), ("resume", None)]
)
def test_processes_that_disagree_are_told(tmp_path, field, values):
    both = () if field == "num-processes" else ("--num-processes", "2")
    first, second = ((f"--{field}", v) for v in values) if values else ((), (f"--{field}",))
    found = ends(start_two(tmp_path / "run", [(*both, *first), (*both, *second)]))
    name = field.replace("-", "_")
    for index, (status, out) in enumerate(found):
        assert status == 2, out
        assert f"the processes disagree: {name} is " in out
        assert f"in process {index} and " in out
    assert not (tmp_path / "run").exists()


def test_sigterm_to_one_of_two_processes_saves_and_ends_both(tmp_path):
    folder = tmp_path / "run"
    many = ("--num-processes", "2", "--epochs", "400", "--checkpoint-epochs", "400")
    processes = start_two(folder, [many, many])
    wait_for(has_trained(folder), processes)
    processes[1].send_signal(signal.SIGTERM)
    for status, out in ends(processes):
        assert status == 143, out
    assert len(Checkpoints(folder / "checkpoints").steps()) == 1
    # One process goes on with what two have saved: enough to see that it does.
    lines = len(rows_of(folder))
    alone = start(folder, *many[2:], "--resume")
    wait_for(lambda: (folder / "metrics.jsonl").read_text().count("\n") > lines, [alone])
    alone.kill()
    alone.communicate()


def test_two_killed_and_resumed_processes_run_like_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    shared = {"batch_size": 128, "checkpoint_epochs": 1, "parallel": "fsdp"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in shared.items()]
    both = [("--num-processes", "2", *words)] * 2
    saved = Checkpoints(two / "checkpoints")

    processes = start_two(two, both, devices=2)
    wait_for(saved.steps, processes)
    for process in processes:
        process.kill()
    assert [status for status, _ in ends(processes)] == [-signal.SIGKILL] * 2
    found = ends(start_two(two, [(*own, "--resume") for own in both], devices=2))
    for status, out in found:
        assert status == 0, out
    assert ["Run folder:" in out for _, out in found] == [True, False]

    alone = go(one, devices=4, **shared)
    assert sorted(os.listdir(two)) == sorted(os.listdir(one))
    rows, others = rows_of(one), rows_of(two)
    assert [place(row) for row in others] == [place(row) for row in rows]
    for row, other in zip(rows, others, strict=True):
        for name in row.keys() - {*torture.TIMING, "kind", "cycle", "phase"}:
            near = None if row[name] is None else pytest.approx(row[name], rel=1e-5, abs=1e-5)
            assert other[name] == near, (name, row)
    # Each process has written its part of the arrays.
    parts = {path.name for path in (two / "checkpoints").glob("*/state/ocdbt.process_*")}
    assert parts == {"ocdbt.process_0", "ocdbt.process_1"}
    # The run has ended: this only reads it.
    together = go(two, devices=4, resume=True, **shared)
    assert [r.nonzero for r in together.records] == [r.nonzero for r in alone.records]
    jax.tree.map(np.testing.assert_array_equal, together.state.mask, alone.state.mask)


def place(row):
    return row["kind"], row["cycle"], row["step"]
