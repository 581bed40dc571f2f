"""The resumable script behind the table of methods."""

import dataclasses
import functools
import io
import json

import pytest
from rich.console import Console

from experiments import data
from experiments import methods_table as table
from experiments.checks import check

pytestmark = pytest.mark.usefixtures("jax_defaults")

# One seed's cells, level by level.
ORDER = [
    ("dense", 0.0),
    ("gmp", 0.5),
    ("str", 0.01),
    ("cs", -0.02),
    ("dst", 0.001),
    ("gmp", 0.75),
]


def small(tmp_path, **options):
    settings = {
        "data": "digits",
        "epochs": 2,
        "cycles": 1,
        "sparsities": (0.5, 0.75),
        "methods": ("gmp", "str", "cs", "dst"),
        "str_weight_decay": (0.01,),
        "cs_initial": (-0.02,),
        "dst_penalty": (0.001,),
        "seeds": (0, 1),
        "batch_size": 256,
        "out": tmp_path / "out",
    }
    return table.Grid(**{**settings, **options})


def quiet():
    return Console(file=io.StringIO())


def key(cell):
    return cell["seed"], cell["method"], cell["level"]


@pytest.fixture
def fake(monkeypatch):
    """Cells that cost nothing; returns the list of those that were run."""
    ran = []

    def run_cell(grid, cell, dataset):
        ran.append(key(cell))
        seed, method, level = ran[-1]
        accuracy = 0.5 + 0.1 * seed + 0.01 * [m for m, _ in ORDER].index(method)
        return {
            **cell,
            "accuracy": accuracy,
            "accuracy_before": accuracy - 0.2,
            "sparsity": level if method in ("dense", "gmp") else 0.8 + 0.02 * seed,
            "images_per_second": 1000.0 * (seed + 1),
            "seconds": 10.0,
        }

    monkeypatch.setattr(table, "run_cell", run_cell)
    return ran


def test_the_table_has_mean_and_deviation_over_seeds(tmp_path, fake):
    text = table.run(small(tmp_path), quiet())
    assert fake == [(seed, *row) for seed in (0, 1) for row in ORDER]
    lines = text.splitlines()
    assert lines[0] == (
        "| method | set to | sparsity % | test % | before the last prune | images/s |"
    )
    assert lines[2:9] == [
        "| dense |  | 0.00 ± 0.00 | 55.00 ± 7.07 | 35.00 ± 7.07 | 1,500 |",
        "| GMP | 50 % | 50.00 ± 0.00 | 56.00 ± 7.07 | 36.00 ± 7.07 | 1,500 |",
        "| GMP | 75 % | 75.00 ± 0.00 | 56.00 ± 7.07 | 36.00 ± 7.07 | 1,500 |",
        "| STR | weight decay = 0.01 | 81.00 ± 1.41 | 57.00 ± 7.07 | 37.00 ± 7.07 | 1,500 |",
        "| CS | s₀ = -0.02 | 81.00 ± 1.41 | 58.00 ± 7.07 | 38.00 ± 7.07 | 1,500 |",
        "| DST | α = 0.001 | 81.00 ± 1.41 | 59.00 ± 7.07 | 39.00 ± 7.07 | 1,500 |",
        "",
    ]
    assert "over 2 seeds, 2 epochs each" in lines[9]
    assert "2 minutes in all" in lines[9]
    assert (tmp_path / "out" / "table.md").read_text().strip() == text


def test_a_stopped_run_goes_on_where_it_was(tmp_path, fake):
    grid = small(tmp_path)
    whole = table.run(grid, quiet())
    results = tmp_path / "out" / "results.jsonl"
    lines = results.read_text().splitlines()
    # Killed in the middle of the ninth line.
    results.write_text("\n".join([*lines[:8], lines[8][:20]]))
    fake.clear()
    assert table.run(grid, quiet()) == whole
    assert fake == [(1, *row) for row in ORDER[2:]]
    fake.clear()
    assert table.run(grid, quiet()) == whole
    assert fake == []
    table.run(small(tmp_path, cs_initial=(-0.02, -0.04)), quiet())
    assert fake == [(0, "cs", -0.04), (1, "cs", -0.04)], "another level: only its cells"


def test_the_table_leaves_out_what_is_missing(tmp_path, fake, monkeypatch, capsys):
    run_cell = table.run_cell

    def interrupted(grid, cell, dataset):
        if cell["method"] == "str":
            raise KeyboardInterrupt
        return run_cell(grid, cell, dataset)

    monkeypatch.setattr(table, "run_cell", interrupted)
    out = tmp_path / "out"
    arguments = "--data digits --epochs 2 --cycles 1 --methods gmp str --sparsities 0.5 0.75"
    assert table.main([*arguments.split(), "--out", str(out)]) == 130
    assert "Interrupted" in capsys.readouterr().out
    done = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [key(cell) for cell in done] == [(0, *row) for row in ORDER[:2]]
    lines = table.markdown(small(tmp_path), done).splitlines()
    assert lines[2:5] == [
        "| dense |  | 0.00 | 50.00 | 30.00 | 1,000 |",
        "| GMP | 50 % | 50.00 | 51.00 | 31.00 | 1,000 |",
        "",
    ]
    assert "over 1 seeds" in lines[5]


def refused(grid):
    with pytest.raises(ValueError, match="holds cells of other settings"):
        table.run(grid, quiet())


@pytest.mark.parametrize("options", [{"epochs": 3}, {"learning_rate": 0.1}, {"str_initial": -2.0}])
def test_cells_of_other_settings_are_refused(tmp_path, fake, options):
    table.run(small(tmp_path), quiet())
    refused(small(tmp_path, **options))


@pytest.mark.parametrize("default", [{"weight_decay": 5e-4}, {"momentum": 0.5}])
def test_cells_of_other_defaults_are_refused(tmp_path, fake, monkeypatch, default):
    table.run(small(tmp_path), quiet())
    monkeypatch.setattr(table, "Config", functools.partial(table.Config, **default))
    refused(small(tmp_path))


def test_bad_input_is_one_clear_error(tmp_path, fake, capsys):
    assert table.main(["--epochs", "2", "--cycles", "2", "--out", str(tmp_path / "out")]) == 2
    assert "cycles=2 leaves no dense epoch of epochs=2" in capsys.readouterr().out
    assert fake == []
    assert not (tmp_path / "out").exists()


def test_the_cells_of_the_default_grid_are_valid_and_of_one_length():
    grid = table.Grid()
    cells = list(table.cells(grid, 3))
    assert {cell["method"] for cell in cells} == {"dense", *grid.methods}
    assert len({key(cell) for cell in cells}) == len(cells) == 1 + 3 * len(grid.methods)
    driven_by = {"str": "weight_decay", "cs": "initial", "dst": "penalty"}
    for cell in cells:
        config = table.config_of(grid, cell)
        check(config)
        assert config.total_epochs() == grid.epochs
        assert (config.seed, config.method) == (3, cell["method"])
        if cell["method"] != "dense":
            field = driven_by.get(cell["method"], "sparsity")
            assert getattr(config, field) == cell["level"]


@pytest.mark.parametrize(
    ("method", "level"), [pytest.param("bimp", 0.5, marks=pytest.mark.slow), ("dst", 1e-3)]
)
def test_a_real_cell(tmp_path, method, level):
    grid = small(tmp_path, model="lenet_300_100", epochs=3, methods=(method,))
    cell = {"seed": 0, "method": method, "level": level}
    result = table.run_cell(grid, cell, data.load("digits"))
    assert json.loads(json.dumps(result)) == result
    assert cell.items() <= result.items()
    n = 64 * 300 + 300 * 100 + 100 * 10
    assert 0 < result["nonzero"] < n
    assert result["sparsity"] == (n - result["nonzero"]) / n
    if method == "bimp":
        assert result["nonzero"] == n // 2
    else:  # sparse in the forward pass already
        assert result["accuracy_before"] == result["accuracy"]
    for name in ("accuracy", "accuracy_before", "accuracy_pruned"):
        assert 0.2 < result[name] <= 1, "ten classes, and it learns"
    assert result["images_per_second"] > 0
    row = table.markdown(grid, [result]).splitlines()[2]
    assert f"| {100 * result['sparsity']:.2f} | {100 * result['accuracy']:.2f} |" in row


def test_a_damaged_cell_is_run_again(tmp_path, fake):
    text = table.run(small(tmp_path), quiet())
    results = tmp_path / "out" / "results.jsonl"
    whole = results.read_bytes()
    for damaged in (
        whole.replace(b'"accuracy": 0.5', b'"accuracy": 0.9', 1),
        whole.replace(b'"seed"', b'"seeed"', 1),
        whole.replace(b'"level"', b'"\xff\xfevel"', 1),
        b"[]\n" + whole.split(b"\n", 1)[1],
    ):
        fake.clear()
        results.write_bytes(damaged)
        assert table.run(small(tmp_path), quiet()) == text
        assert fake == [(0, *ORDER[0])]


def test_cells_of_other_data_are_not_mixed(tmp_path, fake, monkeypatch):
    table.run(small(tmp_path, seeds=(0,)), quiet())
    right = data.load("digits")
    test = {**right.test, "label": right.test["label"][::-1].copy()}
    other = dataclasses.replace(right, test=test)
    monkeypatch.setattr(data, "load", lambda *a, **k: other)
    with pytest.raises(ValueError, match=r"holds cells of other data, says its data\.json"):
        table.run(small(tmp_path), quiet())
    (tmp_path / "out" / "config.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        table.run(small(tmp_path), quiet())
