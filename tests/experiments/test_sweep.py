"""Grids of runs: what they hold, how they share, what they do when things go wrong."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import job, papers, sweep
from experiments.config import Config
from experiments.sweeps import Claims, Sweep, SweepFolder, changed, runs
from experiments.sweeps import _launch as launch
from experiments.sweeps import _results as results
from experiments.sweeps import _worker as worker

BASE = {
    "model": "lenet_300_100",
    "batch_size": 256,
    "epochs": 2,
    "retrain_epochs": 1,
    "cycles": 1,
    "sparsity": 0.5,
}
SMALL = Sweep("small", BASE, [{"schedule": "ft"}, {"schedule": "allr", "sparsity": (0.5, 0.7)}])


def folder_of(path, what=SMALL, **options):
    folder = SweepFolder(path, runs(what), **options)
    path.mkdir(exist_ok=True)
    folder.begin(what)
    return folder


def done(folder, said=None, **options):
    worker.work(folder, say=print if said is None else said.append, **options)
    return [run for run in folder.runs if folder.is_done(run)]


class TestGrid:
    def test_all_combinations(self):
        found = runs(Sweep("x", BASE | {"seed": (0, 1)}, SMALL.variants))
        assert len(found) == 6
        assert len({run.id for run in found}) == 6
        kinds = {(r.config.schedule, r.config.sparsity, r.config.seed) for r in found}
        both = itertools.product((("ft", 0.5), ("allr", 0.5), ("allr", 0.7)), (0, 1))
        assert kinds == {(*kind, seed) for kind, seed in both}
        assert {run.label for run in found} == {"ft", "allr"}

    def test_one_dense_network_for_all_that_prune_it(self):
        grid = Sweep(
            "x",
            BASE,
            [
                {"schedule": ("ft", "allr"), "sparsity": (0.5, 0.9), "retrain_epochs": (1, 2)},
                {"schedule": "lrw", "rewind_epoch": 1, "optimizer_state": "keep"},
                {"score": "random", "allocation": "erk"},
            ],
        )
        assert len({run.dense for run in runs(grid)}) == 1
        for other in (
            {"epochs": 3},
            {"seed": 1},
            {"learning_rate": 0.05},
            {"precision": "bfloat16"},
        ):
            both = runs(
                Sweep(
                    "x",
                    BASE
                    | {
                        k: (getattr(Config(), k) if k != "epochs" else 2, v)
                        for k, v in other.items()
                    },
                )
            )
            assert len({run.dense for run in both}) == 2, other
        one_phase = runs(Sweep("x", BASE | {"method": ("gmp", "rigl")}))
        assert [run.dense for run in one_phase] == [None, None]

    def test_settings_from_the_command_line(self):
        grid = changed(
            SMALL, ["seed=0,1,2", "sparsity=0.6", "precision=bfloat16", "nesterov=false"]
        )
        found = runs(grid)
        assert len(found) == 6  # the variant's own axis of sparsities is replaced
        assert {run.config.sparsity for run in found} == {0.6}
        assert {run.config.nesterov for run in found} == {False}
        assert {run.config.seed for run in found} == {0, 1, 2}
        grid = changed(Sweep("x", BASE, [{}]), ["allocation=none,erk"])
        assert [run.config.allocation for run in runs(grid)] == [None, "erk"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["sparsty=0.5"], "no option 'sparsty'.*'sparsity'"),
            (["sparsity"], "not key=value"),
            (["sparsity="], "not key=value"),
            (["seed=one"], "seed is of type int; got 'one'"),
            (["nesterov=2"], "true or false"),
            (["precision=float16"], "unknown precision 'float16'"),
            (["run_dir=x"], "a sweep sets run_dir by itself"),
            (["schedule=alr"], "unknown schedule 'alr', did you mean 'allr'"),
            (["seed=0,0"], "has a run twice"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            runs(changed(Sweep("x", BASE, [{}]), settings))

    def test_an_empty_grid(self):
        with pytest.raises(ValueError, match="x has no runs"):
            runs(Sweep("x", BASE | {"seed": ()}))
        with pytest.raises(ValueError, match="x has no runs"):
            runs(Sweep("x", BASE, []))

    def test_wrong_settings_are_refused_before_jax_is_imported(self):
        code = (
            "import sys; from experiments import sweep\n"
            "status = sweep.main(['bimp', '--set', 'sparsty=1'])\n"
            "assert status == 2, status\nassert 'jax' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    @pytest.mark.parametrize("name", papers.NAMES)
    def test_every_named_sweep_has_sound_grids(self, name):
        paper = papers.load(name)
        assert set(paper.sizes) == set(paper.notes) == {"tiny", "cpu", "full"}
        for size in paper.sizes.values():
            found = runs(size)
            names = {"label", *(f.name for f in dataclasses.fields(Config))}
            assert {*paper.rows, *paper.columns} <= names
            rows = [{**vars(run.config), "label": run.label} for run in found]
            for claim in paper.claims:
                for side in (claim.better, claim.worse):
                    hits = [r for r in rows if all(r[k] == v for k, v in side.items())]
                    assert hits, (claim.text, side)


class TestClaims:
    def test_one_owner(self, tmp_path):
        claims, others = Claims(tmp_path), Claims(tmp_path)
        with claims.held("a") as ours:
            assert ours
            assert list(claims.owners()) == ["a"]
            with others.held("a") as theirs, others.held("b") as free:
                assert not theirs
                assert free
        assert claims.owners() == {}
        with others.held("a") as theirs:
            assert theirs

    def test_a_dead_owner_is_replaced_once(self, tmp_path):
        rounds, barrier, taken = 20, threading.Barrier(8), []
        for round_ in range(rounds):
            (tmp_path / f"{round_}.claim").write_text("123 on nowhere\n")
            os.utime(tmp_path / f"{round_}.claim", (0, 0))

        def take():
            claims = Claims(tmp_path)
            for round_ in range(rounds):
                barrier.wait()
                with claims.held(str(round_)) as ours:
                    if ours:
                        taken.append(round_)
                    barrier.wait()

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert taken == list(range(rounds))

    def test_a_living_owner_shows_itself(self, tmp_path):
        claims, others = Claims(tmp_path, stale=0.4), Claims(tmp_path, stale=0.4)
        with claims.held("a") as ours:
            assert ours
            time.sleep(1.0)
            with others.held("a") as theirs:
                assert not theirs


def test_the_same_bits_as_runs_of_their_own(tmp_path, jax_defaults):
    grid = Sweep(
        "x",
        BASE | {"epochs": 3},
        [
            {"schedule": "allr", "cycles": 2},
            {"schedule": "lrw", "rewind_epoch": 1, "retrain_epochs": 2},
            {"method": "bimp"},
            {"method": "gmp"},
            {"schedule": "llr", "optimizer_state": "keep"},
        ],
    )
    folder = folder_of(tmp_path / "sweep", grid)
    assert len(done(folder)) == 5
    assert len(list((tmp_path / "sweep" / "dense").iterdir())) == 2  # bimp's schedule is its own
    for run in folder.runs:
        alone = job.run(dataclasses.replace(run.config, run_dir=tmp_path / run.id))
        variables, mask = jp.load(folder.run_dir(run) / "final.safetensors")
        for a, b in zip(
            jax.tree.leaves((variables["params"], mask["params"])),
            jax.tree.leaves((alone.state.params, alone.state.mask)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b, err_msg=run.id)


def test_what_is_done_stays_and_the_table_grows(tmp_path):
    folder, said = folder_of(tmp_path / "s"), []
    assert len(done(folder, said)) == 3
    assert sum(line.startswith("done in") for line in said) == 3
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "runs").rglob("metrics.jsonl")}
    more = folder_of(tmp_path / "s", changed(SMALL, ["seed=0,1"]))  # a sweep may grow
    assert len(done(more)) == 6
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    table = results.read(results.write(more).parent)
    assert len(table) == 12
    final = table.filter(table["final"])
    assert final["phase_sparsity"].round(3).unique().sort().to_list() == [0.5, 0.7]
    assert final["label"].unique().sort().to_list() == ["allr", "ft"]
    assert table["schedule"].null_count() == table["images_per_second"].dtype.is_float() == 0
    assert str(table["accuracy"].dtype) == "Float64"
    with pytest.raises(ValueError, match="holds another grid: 3 of its runs"):
        folder_of(tmp_path / "s", changed(SMALL, ["seed=1"]))
    (tmp_path / "s" / "sweep.json").write_text("[]")
    with pytest.raises(ValueError, match=r"sweep.json is damaged"):
        folder_of(tmp_path / "s")


def test_one_that_fails_does_not_stop_the_rest(tmp_path, monkeypatch):
    folder, said, real = folder_of(tmp_path / "s"), [], job.run

    def fails(config, **options):
        if config.schedule == "ft":
            raise FloatingPointError("training diverged: the loss is NaN")
        return real(config, **options)

    monkeypatch.setattr(job, "run", fails)
    assert len(done(folder, said)) == 2
    ((run, why),) = folder.failures()
    assert run.label == "ft"
    assert why["error"] == "FloatingPointError: training diverged: the loss is NaN"
    assert "--schedule ft" in why["command"]
    assert why["command"].startswith("python -m experiments.run --method imp") is False
    assert any(line.startswith(f"failed: {run.id}") for line in said)
    monkeypatch.setattr(job, "run", real)
    assert len(done(folder)) == 2  # not again by itself
    folder.forget_failures()
    assert len(done(folder)) == 3


def test_no_room_stops_all(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "s")

    def fails(config, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "run", fails)
    with pytest.raises(OSError, match="No space left"):
        done(folder)
    assert folder.failures() == []


def test_an_interrupted_sweep_goes_on(tmp_path, monkeypatch):
    """At every stretch of training it is asked to end, and started again."""
    grid = Sweep("x", BASE | {"checkpoint_epochs": 1}, SMALL.variants)
    straight = folder_of(tmp_path / "straight", grid)
    done(straight)
    folder, starts = folder_of(tmp_path / "stopped", grid), 0
    while folder.open_runs():
        starts += 1
        asked = itertools.count()
        worker.work(folder, say=lambda line: None, stop=lambda asked=asked: next(asked) >= 3)
        assert starts < 60
    assert starts > 3
    for run in folder.runs:
        a, _ = jp.load(folder.run_dir(run) / "final.safetensors")
        b, _ = jp.load(straight.run_dir(run) / "final.safetensors")
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_damaged_dense_network_is_trained_again(tmp_path):
    folder = folder_of(tmp_path / "s")
    first, *others = folder.runs
    worker.work(folder, say=lambda line: None, share=[first])
    (state,) = (tmp_path / "s" / "dense").rglob("state-*.npz")
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    worker.work(folder, say=print, share=others)
    assert all(map(folder.is_done, others))
    tables = [results.rows_of(folder, run)[0]["accuracy"] for run in folder.runs]
    assert len(set(tables)) == 1


def test_the_command(tmp_path, capsys):
    words = ["retraining_schedules", "--size", "tiny", "--out", str(tmp_path / "s")]
    words += [
        "--set",
        "epochs=2",
        "--set",
        "seed=0",
        "--set",
        "retrain_epochs=1",
        "--set",
        "sparsity=0.5",
    ]
    assert sweep.main([*words, "--shard", "0/2", "--workers", "1"]) == 0
    assert "[3/3]" in capsys.readouterr().out
    assert sweep.main([*words, "--workers", "1"]) == 0
    assert "6 runs, 3 of them done; 1 dense networks" in capsys.readouterr().out
    log = (tmp_path / "s" / "progress.log").read_text()
    assert log.count("done in") == 6
    assert (tmp_path / "s" / "results.parquet").exists()
    for bad in (["--shard", "2/2"], ["--size", "huge"], ["--set", "seed=7"]):
        assert sweep.main([*words, *bad]) == 2
    assert sweep.main(["retraining_schedule"]) == 2
    assert "did you mean 'retraining_schedules'" in capsys.readouterr().out.replace("\n", " ")
    assert sweep.main([str(tmp_path / "mine.py")]) == 2
    (tmp_path / "mine.py").write_text("X = 1")
    assert sweep.main([str(tmp_path / "mine.py")]) == 2


def test_a_sweep_in_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from experiments.sweeps import Sweep\n"
        "SWEEP = Sweep('mine', {'model': 'lenet_300_100', 'seed': (0, 1)}, [{'method': 'dense'}])\n"
    )
    found = runs(sweep.find(str(tmp_path / "mine.py"), "cpu"))
    assert [run.config.seed for run in found] == [0, 1]


@pytest.mark.slow
def test_workers_share_a_folder_and_replace_one_that_dies(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from experiments.sweeps import Sweep\n"
        f"SWEEP = Sweep('mine', {BASE | {'seed': (0, 1, 2)}!r}, [{{'schedule': ('ft', 'allr')}}])\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.sweep", str(tmp_path / "mine.py")]
    command += ["--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not list(out.glob("runs/*/metrics.jsonl")) and time.time() < deadline:
        time.sleep(0.1)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), 9)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "ended with status -9" in said
    assert len(list(out.glob("runs/*/done.json"))) == 6


@pytest.mark.slow
def test_jobs_of_a_cluster(tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "mine.py").write_text(
        "from experiments.sweeps import Sweep\n"
        f"SWEEP = Sweep('mine', {BASE!r}, [{{'schedule': ('ft', 'allr')}}])\n"
    )
    folder = SweepFolder(tmp_path / "out", runs(sweep.find(str(tmp_path / "mine.py"), "cpu")))
    words = [str(tmp_path / "mine.py"), "--out", str(tmp_path / "out")]
    jobs = launch.slurm(words, 2, tmp_path / "out", parameters={"timeout_min": 5}, cluster="local")
    for submitted in jobs:
        submitted.wait()
    assert all(map(folder.is_done, folder.runs))


def test_without_submitit_the_command_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxprune\[slurm\]'"):
        launch.slurm([], 1, tmp_path, parameters={})


def test_json_of_a_failure(tmp_path):
    folder = folder_of(tmp_path / "s")
    run = folder.runs[0]
    folder.mark_failed(run, ValueError("x"))
    (folder.run_dir(run) / "error.txt").write_text("{")
    ((_, why),) = folder.failures()
    assert why["error"] == "unknown"
    assert json.dumps(why)
