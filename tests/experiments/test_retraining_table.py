"""The resumable script behind the table of retraining schedules."""

import io
import json

import pytest
from rich.console import Console

from experiments import retraining_table as table

pytestmark = pytest.mark.usefixtures("jax_defaults")


def small(tmp_path, **options):
    settings = {
        "data": "digits",
        "epochs": 1,
        "retrain_epochs": (1,),
        "sparsities": (0.5,),
        "cycles": (1,),
        "schedules": ("ft", "allr"),
        "seeds": (0, 1),
        "batch_size": 256,
        "out": tmp_path / "out",
    }
    return table.Grid(**{**settings, **options})


@pytest.fixture
def fake(monkeypatch):
    """Cells that cost nothing; returns the list of those that were run."""
    ran = []

    def run_cell(cell, parts, dense):
        ran.append(cell)
        accuracy = 0.5 + 0.1 * cell["seed"] + 0.01 * (cell["schedule"] == "allr")
        return {**cell, "dense_accuracy": 0.9, "accuracy": accuracy, "seconds": 0.0}

    monkeypatch.setattr(table, "run_cell", run_cell)
    return ran


@pytest.mark.slow
def test_the_table_has_mean_and_deviation_over_seeds(tmp_path, fake):
    text = table.run(small(tmp_path), Console(file=io.StringIO()))
    assert "| cycles | sparsity | epochs a cycle | FT | ALLR |" in text
    assert "| 1 | 50 % | 1 | 55.00 ± 7.07 | 56.00 ± 7.07 |" in text
    assert "Dense: 90.00 ± 0.00" in text
    assert (tmp_path / "out" / "table.md").read_text().strip() == text


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(tmp_path, fake):
    grid, console = small(tmp_path), Console(file=io.StringIO())
    table.run(grid, console)
    results = tmp_path / "out" / "results.jsonl"
    lines = results.read_text().splitlines()
    # Killed in the middle of the third line.
    results.write_text("\n".join([*lines[:2], lines[2][:20]]))
    fake.clear()
    text = table.run(grid, console)
    assert [(c["seed"], c["schedule"]) for c in fake] == [(1, "ft"), (1, "allr")]
    assert "| 1 | 50 % | 1 | 55.00 ± 7.07 | 56.00 ± 7.07 |" in text
    fake.clear()
    assert table.run(grid, console) == text
    assert fake == []


def test_cells_of_other_settings_are_refused(tmp_path, fake, capsys):
    table.run(small(tmp_path), Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="holds cells of other settings"):
        table.run(small(tmp_path, epochs=2), Console(file=io.StringIO()))


def test_a_real_cell(tmp_path):
    grid = small(tmp_path, seeds=(0,), schedules=("allr",), model="lenet_300_100")
    text = table.run(grid, Console(file=io.StringIO()))
    cell = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert cell["nonzero"] == (64 * 300 + 300 * 100 + 100 * 10) // 2
    assert 0 < cell["accuracy"] <= 1
    assert f"{100 * cell['accuracy']:.2f} |" in text
