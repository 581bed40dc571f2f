"""The main job: its folder, its numbers, its errors, its interruption."""

import csv
import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import data, job, reports, run
from experiments.config import METHODS, UNCONTROLLED, Config
from experiments.setup import build, dense_schedule

pytestmark = pytest.mark.usefixtures("jax_defaults")

SMALL = Config(model="lenet_300_100", epochs=3, retrain_epochs=1, cycles=2, batch_size=256)


def quiet():
    return Console(file=io.StringIO(), width=100)


def small(tmp_path, **options):
    return dataclasses.replace(SMALL, run_dir=tmp_path / "run", **options)


def summary(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_everything(tmp_path):
    console = quiet()
    config = small(tmp_path)
    result = job.run(config, console=console)
    folder = config.run_dir

    document = json.loads((folder / "config.json").read_text())
    assert document["config"]["cycles"] == 2
    assert {"jaxprune", "jax", "flax", "optax"} <= document["versions"].keys()
    assert 0 <= document["seconds_to_first_step"] < 1000
    assert "--model lenet-300-100" not in document["command"]
    assert "--model lenet_300_100 --cycles 2 --epochs 3" in document["command"]

    rows = summary(folder)
    assert [row["phase"] for row in rows] == ["dense", "cycle 1", "cycle 2"]
    about = {"method": "imp", "schedule": "allr", "seed": "0", "target": "0.95"}
    assert [{name: row[name] for name in about} for row in rows] == [about] * 3
    assert [int(row["nonzero"]) for row in rows] == [r.nonzero for r in result.records]
    assert float(rows[2]["sparsity"]) == pytest.approx(0.95, abs=1e-4)
    assert rows[0]["discount"] == "" != rows[1]["discount"]

    assert jp.read_settings(folder / "final.safetensors") == document
    variables, mask = jp.load(folder / "final.safetensors")
    jp.assert_sparse(variables["params"], mask["params"], sparsity=0.95)
    for ours, theirs in zip(
        jax.tree.leaves((variables["params"], mask["params"])),
        jax.tree.leaves((result.state.params, result.state.mask)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == list(range(5 * (1293 // 256)))
    rates = np.concatenate([r.learning_rates for r in result.records])
    np.testing.assert_array_equal(np.float32([line["learning_rate"] for line in train]), rates)
    assert sum(line["kind"] == "validation" for line in lines) == 5
    assert [line["phase"] for line in lines if line["kind"] == "phase"] == [
        "dense",
        "cycle 1",
        "cycle 2",
    ]
    for picture in ("accuracy.png", "learning_rate.png", "sparsity.png", "weights.png"):
        assert (folder / picture).read_bytes()[:4] == b"\x89PNG"
    text = console.file.getvalue()
    for word in ("sparsity", "stability", "cycle 2", "95.00"):
        assert word in text
    said = [text.index(line) for line in ("Reading digits ...", "First 5 steps", "Run folder")]
    assert said == sorted(said)


@pytest.mark.slow
def test_again_gives_the_same_numbers(tmp_path):
    config = small(tmp_path)
    kept = []
    for _ in range(2):
        job.run(config, console=quiet())
        timing = ("seconds", "images_per_second")
        rows = summary(config.run_dir)
        rows = [{k: v for k, v in r.items() if k not in timing} for r in rows]
        log = (config.run_dir / "metrics.jsonl").read_text().splitlines()
        kept.append((rows, [line for line in log if '"seconds"' not in line]))
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_another_seed_gives_other_numbers(tmp_path):
    first = job.run(small(tmp_path), console=quiet())
    second = job.run(small(tmp_path / "other", seed=1), console=quiet())
    a, b = (r.records[0].metrics["loss"] for r in (first, second))
    assert not np.array_equal(a, b)


@pytest.mark.slow
def test_bimp_spends_the_same_total(tmp_path):
    result = job.run(small(tmp_path, method="bimp"), console=quiet())
    assert sum(len(r.learning_rates) for r in result.records) == 5 * (1293 // 256)


@pytest.mark.slow
def test_options_reach_the_run(tmp_path):
    config = small(
        tmp_path,
        schedule="lrw",
        rewind_epoch=1,
        retrain_epochs=2,
        score="random",
        allocation="uniform",
        recalibrate=True,
        optimizer_state="keep",
        precision="bfloat16",
        sparsity=0.5,
    )
    result = job.run(config, console=quiet())
    options = build(config, dataset=data.load("digits")).options
    assert options["optimizer_state"] == "keep"
    assert options["recalibrate"] is not None
    assert options["rewind"] == 5
    drawn = options["scores"](result.state.params)["Dense_0"]["kernel"]
    assert not np.array_equal(drawn, np.abs(result.state.params["Dense_0"]["kernel"]))
    assert build(small(tmp_path), dataset=data.load("digits")).options["recalibrate"] is None
    kernels = jax.tree.leaves(result.state.mask)
    assert [int(np.sum(k)) for k in kernels] == [k.size - round(0.5 * k.size) for k in kernels]
    np.testing.assert_array_equal(
        result.records[1].learning_rates, result.records[0].learning_rates[5:]
    )


def test_dense_schedules():
    config = Config(epochs=4, learning_rate=0.2, warmup_epochs=1)
    rates = np.asarray(jax.vmap(dense_schedule(config, 10))(np.arange(40)))
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rates[10:], [0.2] * 10 + [0.02] * 10 + [0.002] * 10, rtol=1e-6)
    for name, last in (("linear", 0.2 / 40), ("constant", 0.2)):
        config = Config(epochs=4, learning_rate=0.2, dense_schedule=name)
        assert float(dense_schedule(config, 10)(39)) == pytest.approx(last)


@pytest.mark.slow
def test_ctrl_c_leaves_a_readable_folder(tmp_path, monkeypatch, capsys):
    def interrupt(self, name):
        if name == "cycle 2":
            raise KeyboardInterrupt

    monkeypatch.setattr(reports.Progress, "phase", interrupt)
    arguments = ["--model", "lenet_300_100", "--epochs", "1", "--retrain-epochs", "1"]
    status = run.main([*arguments, "--run-dir", str(tmp_path / "run")])
    assert status == 130
    out = capsys.readouterr().out
    assert "Interrupted" in out
    assert "Traceback" not in out
    assert [row["phase"] for row in summary(tmp_path / "run")] == ["dense", "cycle 1"]
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    assert (tmp_path / "run" / "accuracy.png").exists()


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(["--help"])
    assert stop.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in out
    groups = ("task", "dense", "pruning", "saving", "reading", "devices")
    places = [out.index(f"{group} options") for group in groups]
    assert places == sorted(places)
    assert out.count("python -m experiments.run") == 4, "the usage and three examples"
    for words in ("in epochs", "fraction removed", "(default: 0.95)", "(default: digits)"):
        assert words in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "1.0"], r"in [0, 1); got 1.0"),
        (["--sparsity", "95"], "For 95 % pass 0.95"),
        (["--schedule", "magic"], "unknown schedule 'magic'. Known: ft, lrw"),
        (["--schedule", "alr"], "unknown schedule 'alr', did you mean 'allr'?"),
        (["--model", "resnet57"], "did you mean 'resnet56'?"),
        (["--data", "digit"], "digits"),
        (["--data", "mnist", "--data-dir", "/nonexistent"], "/nonexistent"),
        (["--method", "magic"], "unknown method 'magic'. Known: imp, bimp"),
        (["--dense-schedule", "x"], "unknown dense_schedule 'x'. Known: stepped"),
        (["--cycles", "0"], "cycles is at least 1 and finite; got 0"),
        (["--retrain-epochs", "0"], "retrain_epochs is at least 1 and finite; got 0"),
        (["--schedule", "lrw", "--retrain-epochs", "41"], "lrw rewinds by retrain_epochs=41"),
        (["--batch-size", "5000"], "5000"),
        (["--schedule", "cosine"], "cosine needs peak"),
        (["--method", "bimp", "--schedule", "slr"], "method bimp fixes schedule=allr"),
        (["--method", "bimp", "--dense-schedule", "cosine"], "bimp fixes dense_schedule=linear"),
        (["--momentum", "nan"], "momentum is at least 0 and finite; got nan"),
        (["--peak", "0.1"], "schedule allr has no peak; got 0.1"),
        (["--schedule", "linear", "--peak", "0"], "peak is positive and finite; got 0.0"),
        (["--retrain-warmup", "1"], "retrain_warmup is the fraction of retraining"),
        (["--pattern", "nm_2_4"], "fixes sparsity=0.5 and goes with cycles=1; got 0.95 and 3"),
        (["--rewind-epoch", "40"], "in [0, 40); got 40"),
        (["--learning-rate", "0"], "learning_rate is positive and finite; got 0.0"),
        (["--warmup-epochs", "40"], "leaves nothing of epochs=40"),
        (["--run-dir", "/proc/run"], "/proc/run/checkpoints cannot be written"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reports.Progress, "chunk", lambda *a: pytest.fail("training started"))
    assert run.main(arguments) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert message in out
    assert "Traceback" not in out


def test_a_folder_with_another_config_is_refused(tmp_path, capsys):
    config = small(tmp_path)
    job.run(config, console=quiet())
    with pytest.raises(FileExistsError, match=r"another configuration \(cycles: 2 there, 1 now\)"):
        job.run(dataclasses.replace(config, cycles=1), console=quiet())
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(FileExistsError, match="is not the configuration of a run"):
        job.run(config, console=quiet())


def test_a_plan_that_cannot_run_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="there is no such window"):
        job.run(small(tmp_path, schedule="lrw", retrain_epochs=4), console=quiet())
    assert not (tmp_path / "run").exists()


def test_one_compilation_for_the_whole_run(tmp_path):
    config = small(tmp_path)
    parts = build(config, dataset=data.load("digits"))
    job.run(config, console=quiet(), parts=parts)
    assert parts.train.compiled._cache_size() == 1


ONE_PHASE = [m for m in METHODS if m not in ("imp", "bimp")]
MILD = {"str": {"initial": -4.0}, "cs": {"initial": 0.01}, "dst": {"penalty": 1e-4}}
MILD["sfp"] = {"pattern": "channels"}  # this network has no convolutions
MILD["sr_ste"] = {"pattern": "nm_2_4"}


@pytest.mark.parametrize(
    "method",
    [
        method if method == "gmp" else pytest.param(method, marks=pytest.mark.slow)
        for method in ONE_PHASE
    ],
)
def test_every_method_by_name(tmp_path, method):
    options = {"sparsity": 0.5} if method not in (*UNCONTROLLED, "dense") else {}
    config = small(tmp_path, method=method, **options, **MILD.get(method, {}))
    console = quiet()
    result = job.run(config, console=console)
    rows = summary(config.run_dir)
    assert [row["phase"] for row in rows] == ["training", "final prune"]
    assert [int(row["steps"]) for row in rows] == [5 * (1293 // 256), 0], "the same budget for all"
    n = 64 * 300 + 300 * 100 + 100 * 10
    kept = int(rows[1]["nonzero"])
    assert int(rows[1]["prunable"]) == n
    assert jp.metrics.counts(result.state.mask) == (kept, n)
    if method == "dense":
        assert kept == n
    elif method in UNCONTROLLED:
        assert 0 < kept < n
    else:
        assert kept == n - round(0.5 * n)
    assert float(rows[1]["accuracy"]) > 0.2
    assert rows[0]["accuracy"] != "" != rows[1]["accuracy_pruned"]
    assert float(rows[0]["images_per_second"]) > 0
    for picture in ("accuracy.png", "learning_rate.png", "weights.png"):
        assert (config.run_dir / picture).exists()
    assert "final prune" in console.file.getvalue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gmp", "penalty": 0.1}, "method gmp takes no penalty.*lc, cs, dst"),
        ({"method": "imp", "interval": 1.0}, "method imp takes no interval"),
        ({"method": "str", "interval": 1.0}, "method str takes no interval"),
        ({"method": "gmp", "initial": 1.0}, "method gmp takes no initial"),
        ({"method": "gmp", "schedule": "llr"}, "schedule means nothing to method gmp"),
        ({"method": "rigl", "rewind_epoch": 1}, "rewind_epoch means nothing to method rigl"),
        ({"method": "cs", "allocation": "erk"}, "allocation means nothing to method cs"),
        ({"method": "dst", "pattern": "channels"}, "pattern means nothing to method dst"),
        ({"method": "sr_ste", "pattern": "block_4_4"}, "sr_ste takes its sparsity from an N:M"),
        ({"method": "sr_ste", "sparsity": 0.5}, "sparsity means nothing|takes its sparsity from"),
        ({"method": "gmp", "interval": 0.0}, "interval is a number of epochs above 0"),
        ({"method": "gmp", "interval": 4.0}, "this never prunes"),
        ({"method": "str", "sparsity": 0.5}, "sparsity means nothing to method str"),
        ({"method": "lc", "weight_decay": 0.5}, "weight_decay means nothing to method lc"),
        ({"method": "snap"}, "unknown method 'snap'.*rigl"),
    ],
)
def test_options_that_a_method_does_not_take(tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        job.run(small(tmp_path, **options), console=quiet())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("score", ["taylor", "wanda", "synflow"])
def test_scores_that_need_the_run(tmp_path, score):
    config = small(tmp_path, score=score, sparsity=0.5)
    result = job.run(config, console=quiet())
    assert jp.sparsity(result.state.mask) == pytest.approx(0.5, abs=1e-4)
    assert result.records[-1].evaluation["accuracy"] > 0.5
    job.run(dataclasses.replace(config, resume=True), console=quiet())  # the same scores again


@pytest.mark.slow
def test_options_that_a_method_takes(tmp_path):
    config = small(tmp_path, method="ac_dc", sparsity=0.5, interval=1.0, allocation="uniform")
    result = job.run(config, console=quiet())
    assert all(
        row.sparsity == pytest.approx(0.5, abs=1e-3)
        for row in jp.metrics.sparsity_per_leaf(result.state.mask)
    )
    config = small(tmp_path / "gsm", method="gsm", sparsity=0.5, pattern="block_4_4")
    result = job.run(config, console=quiet())
    jp.masks.check(result.state.mask, jp.masks.block(4, 4, remainder="dense"))
    config = small(tmp_path / "static", method="static", pattern="nm_2_4")
    result = job.run(config, console=quiet())
    jp.masks.check(result.state.mask, jp.masks.nm(2, 4, layout="flax", remainder="dense"))
