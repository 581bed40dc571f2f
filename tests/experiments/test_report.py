"""Reports: tables, intervals, verdicts, published figures, files."""

import itertools
import json

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import comparisons, papers, report
from experiments.comparisons import _statistics as statistics
from experiments.papers import Claim, published


def rows(accuracies, **more):
    """Runs of a grid: ``{(label, sparsity, seed): accuracy}``."""
    found = []
    for (label, sparsity, seed), accuracy in accuracies.items():
        about = {
            "run": f"{label}-{sparsity}-{seed}",
            "label": label,
            "schedule": label,
            "data": "cifar10",
            "model": "resnet20",
            "seed": seed,
            "cycles": 1,
            "cycle": 1,
            "sparsity": sparsity,
            "phase_sparsity": sparsity,
            "retrain_epochs": 1,
            "dense": f"dense-{seed}",
            "device": "cpu",
            "jax": "0.10.2",
            "jaxprune": "0.1.0",
            "commit": None,
            "images_per_second": 1000 + seed,
            "steps": 3,
            **more,
        }
        found.append(about | {"phase": "dense", "accuracy": 0.9, "final": False, "cycle": 0})
        found.append(about | {"phase": "cycle 1", "accuracy": accuracy, "final": True})
    return polars.DataFrame(found, schema_overrides={"commit": polars.String})


GRID = {
    ("ft", 0.9, 0): 0.50,
    ("ft", 0.9, 1): 0.52,
    ("ft", 0.9, 2): 0.54,
    ("allr", 0.9, 0): 0.60,
    ("allr", 0.9, 1): 0.63,
    ("allr", 0.9, 2): 0.63,
    ("ft", 0.98, 0): 0.30,
    ("allr", 0.98, 0): 0.29,
}


class TestTable:
    def test_means_scatter_and_marks(self):
        table = comparisons.pivot(rows(GRID), ("label",), ("sparsity",))
        assert table.rows == (("ft",), ("allr",))
        assert table.columns == ((0.9,), (0.98,))
        cell = table.cells[("allr", 0.9)]
        assert cell.mean == pytest.approx(0.62)
        assert cell.std == pytest.approx(np.std([0.60, 0.63, 0.63], ddof=1))
        assert table.seeds() == (1, 3)
        assert table.markdown().splitlines() == [
            "| label | sparsity 0.9 | sparsity 0.98 |",
            "|---|---:|---:|",
            "| ft | *52.00 ± 2.00* | **30.00** |",
            "| allr | **62.00 ± 1.73** | *29.00* |",
        ]
        latex = table.latex()
        assert r"\textbf{62.00 $\pm$ 1.73}" in latex
        assert latex.count("&") == 6
        assert latex.startswith("\\begin{tabular}{lcc}\n\\toprule")

    def test_a_hole_and_a_tie(self):
        grid = {("a", 0.5, 0): 0.5, ("b", 0.5, 0): 0.5, ("c", 0.5, 0): 0.4, ("c", 0.9, 0): 0.1}
        text = comparisons.pivot(rows(grid), ("label",), ("sparsity",)).markdown()
        assert "| a | **50.00** | – |" in text
        assert "| b | **50.00** | – |" in text
        assert "| c | 40.00³ | **10.00** |" in text

    def test_bad_columns(self):
        with pytest.raises(ValueError, match="no column 'speed'"):
            comparisons.pivot(rows(GRID), ("speed",), ("sparsity",))
        empty = rows(GRID)
        with pytest.raises(ValueError, match="no run"):
            comparisons.pivot(empty.filter(~empty["final"]), ("label",), ("sparsity",))


class TestIntervals:
    def test_all_resamples_of_few_seeds(self):
        values = [0.1, 0.2, 0.6]
        found = statistics.bootstrap(values)
        means = [np.mean(some) for some in itertools.product(values, repeat=3)]
        assert found.mean == pytest.approx(0.3)
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))

    def test_too_few_seeds_give_none(self):
        assert statistics.bootstrap([0.1, 0.2]) == (pytest.approx(0.15), None, None, 2)
        with pytest.raises(ValueError, match="no pairs"):
            statistics.bootstrap([])

    @given(st.lists(st.floats(-1, 1), min_size=3, max_size=9))
    def test_the_mean_lies_inside(self, values):
        found = statistics.bootstrap(values)
        assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12
        assert found == statistics.bootstrap(values)  # drawn with a fixed seed


class TestVerdicts:
    CLAIM = Claim("allr above ft", {"label": "allr"}, {"label": "ft"})

    def test_confirmed_by_pairs(self):
        found = comparisons.judge(rows(GRID), self.CLAIM, ("sparsity",))
        # Seed 0: the mean of +0.10 and -0.01; seeds 1 and 2: +0.11 and +0.09.
        assert found.interval.mean == pytest.approx(np.mean([0.045, 0.11, 0.09]))
        assert (found.word, found.pairs, found.interval.seeds) == ("confirmed", 4, 3)

    def test_where_it_is_about_some_runs(self):
        claim = Claim("x", {"label": "allr"}, {"label": "ft"}, where={"sparsity": (0.98,)})
        found = comparisons.judge(rows(GRID), claim, ("sparsity",))
        assert (found.word, found.pairs) == ("not decided", 1)
        assert "1 seeds; an interval takes 3" in found.why

    def test_the_other_way_around_and_undecided(self):
        turned = Claim("x", {"label": "ft"}, {"label": "allr"}, where={"sparsity": 0.9})
        assert comparisons.judge(rows(GRID), turned, ("sparsity",)).word == "not confirmed"
        mixed = {("a", 0.9, s): 0.5 for s in range(3)} | {
            ("b", 0.9, s): 0.5 + 0.1 * (s - 1) for s in range(3)
        }
        claim = Claim("x", {"label": "a"}, {"label": "b"})
        assert comparisons.judge(rows(mixed), claim, ("sparsity",)).word == "not decided"
        assert (
            comparisons.judge(rows(mixed), Claim("x", {"label": "a"}, {"label": "z"}), ()).pairs
            == 0
        )

    @pytest.mark.parametrize(
        ("gap", "word"), [(0.001, "confirmed"), (0.02, "not confirmed"), (-0.02, "not confirmed")]
    )
    def test_equal(self, gap, word):
        grid = {("a", 0.9, s): 0.5 + gap + 0.0001 * s for s in range(3)}
        grid |= {("b", 0.9, s): 0.5 for s in range(3)}
        claim = Claim("x", {"label": "a"}, {"label": "b"}, kind="equal", margin=0.005)
        assert comparisons.judge(rows(grid), claim, ("sparsity",)).word == word


def test_published_figures_match_their_setting_only():
    (entry,) = published.matching(
        {
            "data": "cifar10",
            "model": "resnet20",
            "cycles": 1,
            "sparsity": 0.8926,
            "label": "LR rewinding",
        }
    )
    assert entry["accuracy"] == pytest.approx(0.8903)
    row = {"data": "cifar10", "model": "resnet20", "cycles": 1, "sparsity": 0.9, "label": "ft"}
    assert published.matching(row) == []
    assert all(0.8 < entry["accuracy"] < 0.95 for entry in published.PUBLISHED)


def folder_with(path, table, name="retraining_schedules"):
    path.mkdir()
    table.write_parquet(path / "results.parquet")
    (path / "sweep.json").write_text(json.dumps({"name": name, "runs": {}}))
    return path


def test_the_command(tmp_path, capsys):
    grid = {
        (s, p, seed): 0.5 + 0.01 * i + 0.001 * seed
        for i, (s, p, seed) in enumerate(
            itertools.product(("ft", "lrw", "slr", "clr", "llr", "allr"), (0.9, 0.98), (0, 1, 2))
        )
    }
    folder = folder_with(tmp_path / "sweep", rows(grid))
    runs = folder / "runs"
    for label in ("ft", "allr"):
        (runs / f"{label}-0.9-0").mkdir(parents=True)
        lines = [{"kind": "train", "cycle": 1, "learning_rate": 0.1 / (i + 1)} for i in range(3)]
        (runs / f"{label}-0.9-0" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert report.main([str(folder), "--compare", "papers"]) == 0
    text = (folder / "report" / "report.md").read_text()
    assert text.rstrip() in capsys.readouterr().out
    assert "Source: Zimmer" in text
    assert "ALLR is at least as good as LLR" in text
    assert "**confirmed**" in text
    made = {path.name for path in (folder / "report").iterdir()}
    assert {"report.md", "report.tex", "accuracy_over_sparsity.png", "learning_rates.png"} <= made
    assert "accuracy_over_retraining.png" not in made  # one length only
    for name in made:
        assert not name.endswith(".png") or f"]({name})" in text


def test_of_any_other_sweep(tmp_path):
    folder = folder_with(tmp_path / "mine", rows(GRID), name="mine")
    options = report.Options(folder, rows=("schedule",), columns=("sparsity", "model"))
    text = report.report(options)
    assert "| schedule | sparsity 0.9, model resnet20 |" in text
    assert "claim" not in text


def test_bad_input(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "there are no results" in capsys.readouterr().out
    (tmp_path / "results.parquet").write_bytes(b"not parquet")
    assert report.main([str(tmp_path)]) == 2
    assert "is no table of results" in capsys.readouterr().out.replace("\n", " ")
    polars.DataFrame({"a": [1]}).write_parquet(tmp_path / "results.parquet")
    assert report.main([str(tmp_path)]) == 2
    assert "no column" in capsys.readouterr().out.replace("\n", " ")


def test_claims_of_the_papers_speak_of_columns_that_there_are():
    columns = set(rows(GRID).columns) | {"method", "allocation", "epochs"}
    for name in papers.NAMES:
        for claim in papers.load(name).claims:
            assert {*claim.better, *claim.worse, *claim.where} <= columns


def test_of_perplexities_the_lowest_is_first(tmp_path):
    values = {("ft", 0.9, 0): 9.5, ("allr", 0.9, 0): 8.25}
    table = rows(values, task="language_modelling", sequences_per_second=5)
    table = table.rename({"accuracy": "perplexity"}).drop("images_per_second")
    table.write_parquet(tmp_path / "results.parquet")
    text = report.report(report.Options(tmp_path))
    assert "| allr | **8.25** |" in text
    assert "| ft | *9.50* |" in text
    assert "Test perplexity, where there is one seed" in text
    assert (tmp_path / "report" / "perplexity_over_speed.png").exists()
    both = polars.concat([table, table.with_columns(task=polars.lit("translation"))])
    both.write_parquet(tmp_path / "results.parquet")
    with pytest.raises(ValueError, match=r"language_modelling.*Sweep them one by one"):
        report.report(report.Options(tmp_path))
