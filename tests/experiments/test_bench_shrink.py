"""The benchmark of shrunk networks."""

import io
import json

import pytest
from rich.console import Console

from experiments.bench.shrink import __main__ as shrink
from experiments.bench.shrink import problems, report
from jaxprune.metrics import Latency, LatencyComparison, MedianInterval

pytestmark = pytest.mark.usefixtures("jax_defaults")


def comparison(dense=0.1, small=0.05):
    times = [Latency(t, 0.9 * t, 1.1 * t, 15, 1, None) for t in (dense, small)]
    ratio = dense / small
    return LatencyComparison(*times, MedianInterval(ratio, 0.9 * ratio, 1.1 * ratio), 4)


def row(network="resnet50", fraction=0.5, macs=(4_000_000_000, 1_600_000_000), **times):
    return report.row(
        network,
        "4 images",
        fraction,
        weights=(100, 50),
        macs=macs,
        largest_error=1e-7,
        grouping_seconds=1.5,
        measured=comparison(**times),
    )


def test_a_row_has_both_speedups_and_both_rates():
    found = row()
    assert found["theoretical_speedup"] == 2.5
    assert found["of_theory"] == pytest.approx(0.8)
    assert found["dense_gmacs_per_second"] == pytest.approx(40)
    assert found["small_gmacs_per_second"] == pytest.approx(32)
    assert found["small_examples_per_second"] == pytest.approx(80)
    assert not found["slow_dense_baseline"]


def test_more_than_theory_is_flagged_as_a_slow_baseline():
    assert row(small=0.03)["slow_dense_baseline"]


def test_targets_are_of_one_network_on_cpu():
    rows = [row(fraction=f) for f in (0.3, 0.5, 0.7)] + [row(network="vgg16")]
    found = report.targets(rows, backend="cpu")
    assert [t["met"] for t in found] == [True, True]
    assert not report.targets([row(dense=0.05)], backend="cpu")[0]["met"]
    assert report.targets(rows, backend="gpu") == []


@pytest.mark.slow
def test_a_run_measures_compares_and_writes(tmp_path):
    given = shrink.Settings(
        networks=("transformer_mlp",),
        fractions=(0.5,),
        repeats=6,
        min_seconds=0.0,
        out=tmp_path / "new" / "shrink.json",
    )
    table = shrink.run(given, console=Console(file=io.StringIO()))
    document = json.loads(given.out.read_text())
    (found,) = document["results"]
    # Only the hidden channels go: half of all multiplications.
    assert (found["dense_macs"], found["small_macs"]) == (512 * 768 * 3072 * 2, 512 * 768 * 3072)
    assert found["small_weights"] == 768 * 1536 * 2 + 1536 + 768
    assert 0 <= found["largest_error"] < 1e-4
    assert "transformer_mlp" in table
    assert given.out.with_suffix(".md").read_text() == table + "\n"
    assert "--networks transformer_mlp --fractions 0.5 --repeats 6" in document["command"]


def test_wrong_results_are_not_timed(monkeypatch):
    problem = problems.problems(on_cpu=True)["transformer_mlp"](0)
    real = shrink.jp.structured.shrink

    def wrong(*arguments):
        apply, small = real(*arguments)
        return lambda params, x: apply(params, x) + 1.0, small

    monkeypatch.setattr(shrink.jp.structured, "shrink", wrong)
    with pytest.raises(RuntimeError, match=r"small and masked results differ by .* of the largest"):
        shrink.measure("transformer_mlp", problem, shrink.Settings(fractions=(0.5,)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ("alexnet",)}, "unknown name 'alexnet' in networks. Known: resnet20"),
        ({"fractions": (50.0,)}, r"fractions is the fraction removed, in \(0, 1\); got 50"),
        ({"networks": ()}, "networks is empty"),
        ({"repeats": 3}, "repeats is at least 6"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        shrink.check(shrink.Settings(**options))


def test_the_command_line_says_errors_in_one_line(capsys):
    assert shrink.main(["--networks", "alexnet"]) == 2
    assert "unknown name 'alexnet'" in capsys.readouterr().out


def test_rows_far_from_theory_say_why():
    assert report.note(row(small=0.08)) == "narrow layers run slower: 40 → 20 GMAC/s"
    assert report.note(row(small=0.02)).startswith("slow dense baseline: 40 →")
    assert report.note(row()) == ""
