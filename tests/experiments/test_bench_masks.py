"""The benchmark of masks, at sizes that take no time."""

import importlib.util
import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.bench.common import machine, timing
from experiments.bench.masks import __main__ as masks
from experiments.bench.masks import first_calls, methods, problems, report

TINY = {"a/kernel": (3, 3, 6, 8), "b/kernel": (20, 31)}
WEIGHTS = 432 + 620
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the extra `bench`"
)


def reference(kept):
    """A maker that compiles at once: the ``kept`` highest scores, by sorting."""

    def make(scores):
        leaves, treedef = jax.tree.flatten(scores)
        everything = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        rank = jnp.argsort(jnp.argsort(everything))
        flat = jnp.split(rank >= WEIGHTS - kept, np.cumsum([leaf.size for leaf in leaves])[:-1])
        masks = [m.reshape(leaf.shape) for m, leaf in zip(flat, leaves, strict=True)]
        return jax.tree.unflatten(treedef, masks)

    return make


@pytest.fixture
def tiny_ours(monkeypatch):
    """A size that takes no time."""
    monkeypatch.setitem(problems.SIZES, "tiny", TINY)
    # Compiling as in a fresh process would make the tests beside this one compile again.
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


@pytest.fixture
def tiny(tiny_ours, monkeypatch):
    """The same with makers that compile at once in the place of ours."""

    def makers(sparsity):
        return {name: reference(n) for name, n in methods.targets(TINY, sparsity).items()}

    monkeypatch.setattr(methods, "makers", makers)


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def settings(tmp_path, **options):
    defaults = {"sizes": ("tiny",), "out": tmp_path / "out" / "masks.json", "first_calls": False}
    return masks.Settings(**{**defaults, **options})


def run(tmp_path, **options):
    given = settings(tmp_path, **options)
    table = masks.run(given, console=Console(file=io.StringIO()))
    return table, json.loads(given.out.read_text())


def rows_of(document):
    return {row["method"]: row for row in document["results"]}


def outcome(seconds, kept=10):
    return timing.Times((seconds,) * 7, kept)


def test_resnet50_has_its_weights():
    shapes = problems.resnet50()
    assert len(shapes) == 54
    assert problems.size(shapes) == 25_502_912
    assert sum(len(shape) == 4 for shape in shapes.values()) == 53
    assert shapes["dense/kernel"] == (2048, 1000)


@pytest.mark.parametrize(
    ("name", "weights"), [("1m", 10**6), ("10m", 10**7), ("resnet50", 25_502_912), ("1b", 10**9)]
)
def test_sizes_are_what_they_are_called(name, weights):
    assert problems.size(problems.SIZES[name]) == weights


def test_scores_are_he_normal_magnitudes_and_repeat():
    scores = problems.he_scores(TINY, dtype="float32", seed=0)
    again = problems.he_scores(TINY, dtype="float32", seed=0)
    for (name, shape), fan_in in zip(TINY.items(), (54, 20), strict=True):
        values = np.asarray(scores[name])
        assert values.shape == shape
        assert values.min() >= 0
        np.testing.assert_allclose(np.mean(values**2), 2 / fan_in, rtol=0.25)
        np.testing.assert_array_equal(values, again[name])
    assert problems.he_scores(TINY, dtype="bfloat16", seed=0)["a/kernel"].dtype == jnp.bfloat16


def test_targets_follow_from_shapes():
    targets = methods.targets({**TINY, "c/kernel": (3, 10)}, 0.9)
    assert targets[methods.GLOBAL] == targets[methods.ERK] == 1082 - 974
    assert targets[methods.UNIFORM] == (432 - 389) + (620 - 558) + (30 - 27)
    # 2:4 leaves 2 of 6 input channels, and the three of the last leaf, alone.
    assert targets[methods.N_M] == 1082 - 9 * 8 * 2 - 310


@pytest.mark.usefixtures("tiny_ours", "no_torch")
def test_the_file_holds_times_counts_and_the_machine(tmp_path):
    table, document = run(tmp_path, slow_repeats=2)
    rows = rows_of(document)
    assert set(rows) == {*methods.OURS, methods.EAGER, *methods.BASELINES}
    for name, row in rows.items():
        assert row["weights"] == WEIGHTS
        if name == methods.TORCH:
            continue
        runs = 2 if name in (methods.SORT, methods.PARTITION) else 7
        assert len(row["seconds"]) == runs
        assert row["min_seconds"] <= row["median_seconds"] <= row["max_seconds"]
        assert row["kept"] == row["target_kept"]
        assert row["kept_too_many"] == 0
        is_compiled = name not in (methods.PARTITION, methods.EAGER)
        assert (row["compile_seconds"] is not None) == is_compiled
        assert (row["temporary_bytes_per_weight"] is not None) == is_compiled
    assert document["command"] == (
        "python -m experiments.bench.masks --sizes tiny --slow-repeats 2 --first-calls False "
        f"--out {tmp_path / 'out' / 'masks.json'}"
    )
    assert document["settings"]["sizes"] == ["tiny"]
    machine = document["machine"]
    assert machine["cpus"] >= 1
    assert machine["cpu"]
    assert machine["device"] == jax.devices()[0].device_kind
    assert machine["versions"]["jax"] == jax.__version__
    assert machine["versions"]["numpy"] == np.__version__
    assert "commit" in machine
    assert document["started"] <= document["finished"]
    assert len(document["load_before"]) == len(document["load_after"]) == 3
    assert (tmp_path / "out" / "masks.md").read_text() == table + "\n"
    for name in rows:
        assert f"| tiny | 1,052 | {name} |" in table


@pytest.mark.usefixtures("tiny", "no_torch")
def test_without_torch_the_table_says_so(tmp_path):
    table, document = run(tmp_path)
    row = rows_of(document)[methods.TORCH]
    assert row["not_measured"] == "torch is not installed (the extra `bench`)"
    assert row["median_seconds"] is row["seconds"] is row["kept"] is None
    assert "| torch | torch is not installed (the extra `bench`) |" in table
    assert "| resnet50: time of torch / ours, global | ≥ 10 | – | not measured |" in table


@needs_torch
@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore:::torch")
def test_with_torch_it_is_timed_and_counted(tmp_path):
    _, document = run(tmp_path, slow_repeats=3)
    row = rows_of(document)[methods.TORCH]
    assert row["not_measured"] is None
    assert len(row["seconds"]) == 3
    assert row["kept"] == row["target_kept"] == 105
    ratio = [r for r in document["ratios"] if r["of"] == methods.TORCH]
    ours = rows_of(document)[methods.GLOBAL]["median_seconds"]
    assert ratio[0]["ratio"] == pytest.approx(row["median_seconds"] / ours)


@pytest.mark.usefixtures("tiny", "no_torch")
def test_scores_in_bfloat16_go_to_the_others_as_float32(tmp_path, monkeypatch):
    seen = []
    right = methods.by_partition

    def by_partition(scores, removed):
        seen.extend(leaf.dtype for leaf in scores.values())
        return right(scores, removed)

    monkeypatch.setattr(methods, "by_partition", by_partition)
    _, document = run(tmp_path, dtype="bfloat16", slow_repeats=1)
    assert set(seen) == {np.dtype(np.float32)}
    assert document["command"].split()[5:7] == ["--dtype", "bfloat16"]


@pytest.mark.usefixtures("tiny", "no_torch")
def test_ties_show_in_the_counts_of_the_baselines_and_not_in_ours(tmp_path, monkeypatch):
    def equal(shapes, **_):
        return {name: jnp.ones(shape) for name, shape in shapes.items()}

    monkeypatch.setattr(problems, "he_scores", equal)
    table, document = run(tmp_path, slow_repeats=1)
    rows = rows_of(document)
    for name in (methods.FLOOR, methods.SORT, methods.PARTITION):
        assert rows[name]["kept_too_many"] == 947
    assert all(rows[name]["kept_too_many"] == 0 for name in methods.OURS)
    assert "| 1,052 | +947 |" in table


@pytest.mark.usefixtures("tiny", "no_torch")
def test_a_wrong_count_of_ours_stops_the_benchmark(tmp_path, monkeypatch):
    right = methods.makers
    monkeypatch.setattr(methods, "makers", lambda s: {**right(s), methods.GLOBAL: reference(104)})
    with pytest.raises(timing.MiscountError, match="ours, global kept 104 weights where 105 are"):
        run(tmp_path)
    assert not (tmp_path / "out" / "masks.json").exists()


def test_a_wrong_count_is_status_1(tmp_path, monkeypatch, capsys):
    def run(settings, *, console):
        raise timing.MiscountError("ours, global kept 104")

    monkeypatch.setattr(masks, "run", run)
    assert masks.main(["--out", str(tmp_path / "x.json")]) == 1
    assert "Wrong mask: ours, global kept 104" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny", "no_torch")
def test_what_does_not_fit_is_skipped_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_host_bytes", lambda: 100)
    table, document = run(tmp_path)
    reasons = {row["not_measured"] for row in document["results"]}
    assert len(reasons) == 1
    assert reasons.pop().startswith("skipped: needs 0.0 GB")
    assert table.count("skipped: needs") == 9

    # Enough for ours, too little for what copies everything.
    monkeypatch.setattr(machine, "free_host_bytes", lambda: 10**6)
    monkeypatch.setattr(methods, "_PARTITION_BYTES", 10**6)
    _, document = run(tmp_path)
    rows = rows_of(document)
    assert rows[methods.GLOBAL]["kept"] == 105
    assert rows[methods.PARTITION]["not_measured"].startswith("skipped: needs")


def test_methods_take_turns_and_fresh_arguments():
    order = []

    def method(name, **options):
        made = iter(range(100))

        def run(argument):
            order.append((name, argument))

        return timing.Method(name, run, lambda: next(made), lambda _: 5, **options)

    three = [method("a"), method("b"), method("c", slow=True)]
    times = timing.interleaved(three, repeats=2, slow_repeats=1)
    assert [name for name, _ in order] == ["a", "b", "c", "a", "b", "c", "b", "a"]
    assert [argument for name, argument in order if name == "a"] == [0, 1, 2]
    assert [len(times[name].seconds) for name in "abc"] == [2, 2, 1]

    order.clear()
    times = timing.interleaved([method("a"), method("b")], repeats=1, slow_repeats=1, warm=True)
    assert order == [(name, i + j) for i in (0, 2) for name in "ab" for j in (0, 1)]
    assert [len(times[name].seconds) for name in "ab"] == [1, 1]


def test_counts_that_change_between_runs_are_an_error():
    counts = iter([5, 6])
    method = timing.Method("a", lambda _: None, lambda: None, lambda _: next(counts))
    with pytest.raises(RuntimeError, match="a kept 5 weights in one run and 6 in another"):
        timing.interleaved([method], repeats=7, slow_repeats=7)


def test_a_baseline_may_fail_and_ours_may_not():
    def fail(_):
        raise RuntimeError("out of memory\nand more")

    method = timing.Method("a", fail, lambda: None, lambda _: 5, slow=True)
    assert timing.interleaved([method], repeats=7, slow_repeats=7) == {"a": "failed: out of memory"}
    with pytest.raises(RuntimeError, match="out of memory"):
        timing.interleaved([method._replace(slow=False)], repeats=7, slow_repeats=7)


def test_targets_of_a_cpu_are_met_or_not():
    compiled = timing.Compiled(lambda: None, 1.0, 250, 300)
    seconds = {methods.GLOBAL: 0.1, methods.TORCH: 2.0, methods.SORT: 2.0}
    rows = [
        report.row("resnet50", 100, name, 10, outcome(s), compiled) for name, s in seconds.items()
    ]
    found = {t["target"]: t for t in report.targets(rows, backend="cpu")}
    torch = found["resnet50: time of torch / ours, global"]
    assert (torch["measured"], torch["met"]) == (pytest.approx(20), True)
    assert found["resnet50: time of jnp.sort / ours, global"]["met"] is False
    memory = found["resnet50: temporary bytes a weight, ours, global"]
    assert (memory["measured"], memory["met"]) == (2.5, False)
    assert found["resnet50: temporary bytes a weight, ours, ERK"]["met"] is None


def test_targets_of_an_accelerator_are_met_or_not():
    rows = [
        report.row(size, 100, name, 10, outcome(seconds), None)
        for size, name, seconds in (
            ("resnet50", methods.GLOBAL, 0.009),
            ("resnet50", methods.FLOOR, 0.001),
            ("1b", methods.GLOBAL, 0.020),
            ("1b", methods.FLOOR, 0.004),
        )
    ]
    found = report.targets(rows, backend="gpu")
    assert [(t["limit"], t["met"]) for t in found] == [(8.0, False), (8.0, True), (0.05, True)]
    assert [t["met"] for t in report.targets([], backend="tpu")] == [None, None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ("2m",)}, r"unknown name '2m' in sizes\. Known: 1m, 10m, resnet50, 1b"),
        ({"sparsity": 1.0}, r"in \(0, 1\); got 1\.0"),
        ({"repeats": 6}, "repeats is at least 7; got 6"),
        ({"slow_repeats": 0}, "slow_repeats is at least 1; got 0"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_bad_settings_are_refused_before_anything_is_measured(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_with_status_2(tmp_path, capsys):
    assert masks.main(["--sizes", "2m", "--out", str(tmp_path / "x.json")]) == 2
    assert "unknown name '2m'" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny", "no_torch")
def test_first_calls_are_made_in_processes_of_their_own(tmp_path, monkeypatch):
    cases = {"5 leaves of 8 x 8": None, "ResNet-50, PyTorch": None}
    monkeypatch.setattr(first_calls, "CASES", cases)
    monkeypatch.setattr(first_calls, "_REPEATS", 1)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").write_text("raise ImportError('none here', name='torch')")
    table, document = run(tmp_path, first_calls=True)
    ours, torch = document["first_calls"]
    assert ours["seconds"][0] > 0
    assert ours["programs"] == 0
    assert torch["not_measured"] == "torch is not installed"
    assert "| ResNet-50, PyTorch | torch is not installed |  |  |" in table
    assert "| first prune of 5 small leaves, seconds | ≤ 0.5 |" in table
    assert "| first prune of ResNet-50 / PyTorch's | ≤ 0.333 | – | not measured |" in table


def test_targets_of_first_calls():
    def row(case, seconds):
        return {"case": case, "median_seconds": seconds, "peak_bytes": 2e9}

    rows = [row("ResNet-50", 1.0), row("ResNet-50, PyTorch", 4.0)]
    rows.append(row("1,000 leaves of 64 x 64", 6.0))
    found = {t["target"]: t for t in report.targets([], rows, backend="cpu")}
    assert found["first prune of ResNet-50 / PyTorch's"]["measured"] == 0.25
    assert found["first prune of ResNet-50 / PyTorch's"]["met"] is True
    assert found["first prune of 1,000 leaves, seconds"]["met"] is False
    assert found["peak memory of either, GB"]["met"] is False
    assert found["first prune of 5 small leaves, seconds"]["met"] is None


def test_the_largest_size_is_asked_for_on_a_cpu(monkeypatch):
    assert masks._default_sizes() == ("1m", "10m", "resnet50")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert masks._default_sizes() == ("1m", "10m", "resnet50", "1b")
