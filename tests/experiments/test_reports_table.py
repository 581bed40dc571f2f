"""The tables and the progress of a run, on terminals of any width and where there is none."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import reports
from experiments.config import Config
from jaxprune.training import PhaseRecord


def record(phase, pruned):
    return PhaseRecord(
        phase=phase,
        cycle=int(pruned is not None),
        sparsity=0.7764,
        nonzero=11_225_000,
        prunable=50_200_000,
        evaluation_pruned=pruned,
        evaluation={"accuracy": 0.9028},
        discount=0.579,
        stability=0.91,
        pruned_fraction=0.5,
        first_step=0,
        learning_rates=np.zeros(20, np.float32),
        metrics={},
        info=None,
        seconds=1234.5,
    )


RECORDS = [record("dense", None), record("final prune", {"accuracy": 0.8444})]
CELLS = {
    "sparsity": "77.64",
    "trained": "90.28",
    "pruned": "84.44",
    "nonzero": "11,225,000",
    "d": "0.579",
    "stability": "0.910",
    "time": "1234.5",
    "images": "272,704",
}


def printed(width, terminal):
    log = reports.Log(speeds={"dense": None, "final prune": 272704.0})
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=terminal, color_system=None)
    reports.print_table(RECORDS, "a run", log, console)
    assert console.width == width
    return file.getvalue()


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_columns_are_dropped_and_never_cut(width):
    text = printed(width, terminal=True)
    assert "…" not in text
    assert "final prune" in text
    assert max(map(len, text.splitlines())) <= width
    gone = [name for name, cell in CELLS.items() if cell not in text]
    assert not {"sparsity", "trained"} & set(gone)
    assert ("images" in gone) == (width <= 80)
    said = " ".join(text.split()).partition("No room for ")[2]
    assert all(name in said for name in gone)
    assert bool(said) == bool(gone)


@pytest.mark.parametrize("width", [80, 20])
def test_a_pipe_gets_every_column(width):
    text = printed(width, terminal=False)
    assert all(cell in text for cell in CELLS.values())
    assert "…" not in text


@pytest.mark.parametrize("width", [100, 60, 40])
def test_paths_are_folded_before_numbers_are_cut(width):
    kernel = jnp.arange(40_000).reshape(200, 200) > 9
    mask = {"encoder/layer_0/self_attention/query": {"kernel": kernel}}
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=True, color_system=None)
    reports.print_mask_table(mask, mask, console)
    text = file.getvalue()
    assert "…" not in text
    assert "0.03 %" in text
    assert ("200 x 200" in text) == (width == 100)


def test_lines_of_progress_where_there_is_no_terminal():
    file = io.StringIO()
    console = Console(file=file, width=40)
    progress = reports.Progress(100, 8, console)
    progress.start()
    rates, metrics = np.full(4, 0.1), {"loss": np.ones(4), "accuracy": np.ones(4)}
    for i in range(25):
        if i == 12:
            progress.phase("cycle 1")
        progress.chunk(rates, metrics)
    progress.stop()
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("dense  12/100  loss 1.000  acc 1.000  lr 0.1000")
    assert lines[-1].startswith("cycle 1  100/100 ")


def test_no_line_of_what_was_done_before():
    file = io.StringIO()
    console = Console(file=file)
    progress = reports.Progress(100, 8, console)
    progress.done(50)
    progress.chunk(np.full(4, 0.1), {"loss": np.ones(4), "accuracy": np.ones(4)})
    assert not file.getvalue()


@pytest.mark.parametrize(
    ("options", "schedule", "target"),
    [
        ({"schedule": "slr"}, "slr", 0.95),
        ({"method": "gmp", "sparsity": 0.5}, None, 0.5),
        ({"method": "sr_ste", "pattern": "nm_2_4"}, None, 0.5),
        ({"method": "str"}, None, None),
        ({"method": "dense"}, None, None),
    ],
)
def test_what_a_row_says_of_its_run(options, schedule, target):
    config = Config(seed=3, **options)
    about = {"method": config.method, "schedule": schedule, "seed": 3, "target": target}
    assert reports.about(config) == about
