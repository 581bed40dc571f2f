"""The resumable script behind the table of filter pruning."""

import io

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import _filters, data, models
from experiments import filters_table as table

pytestmark = pytest.mark.usefixtures("jax_defaults")


def small(tmp_path, **options):
    settings = {
        "data": "digits",
        "epochs": 1,
        "retrain_epochs": 1,
        "fractions": (0.5,),
        "scores": ("l1", "random"),
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

    def run_cell(config, cell, dense, dataset, epochs, folder):
        ran.append(cell)
        found = 0.5 + 0.1 * cell["seed"] + 0.01 * (cell["schedule"] == "allr")
        fixed = {"dense_accuracy": 0.9, "accuracy_pruned": 0.2, "macs": 1500, "dense_macs": 4000}
        return {**cell, **fixed, "accuracy": found, "seconds": 0.0}

    monkeypatch.setattr(_filters, "run_cell", run_cell)
    monkeypatch.setattr(_filters, "train_dense", lambda config, dataset: None)
    return ran


def test_the_table_has_mean_and_deviation_over_seeds(tmp_path, fake):
    text = table.run(small(tmp_path), Console(file=io.StringIO()))
    assert "| filters removed | by | MACs | before retraining | FT | ALLR |" in text
    assert "| 50 % | L1 norm | 1,500 | 20.00 ± 0.00 | 55.00 ± 7.07 | 56.00 ± 7.07 |" in text
    assert "Dense: 90.00 ± 0.00 with 4,000 MACs an image" in text
    assert (tmp_path / "out" / "table.md").read_text().strip() == text


def test_a_stopped_run_goes_on_where_it_was(tmp_path, fake):
    grid, console = small(tmp_path), Console(file=io.StringIO())
    table.run(grid, console)
    results = tmp_path / "out" / "results.jsonl"
    lines = results.read_text().splitlines()
    results.write_text("\n".join([*lines[:6], lines[6][:20]]))
    fake.clear()
    table.run(grid, console)
    assert [(c["seed"], c["score"], c["schedule"]) for c in fake] == [
        (1, "random", "ft"),
        (1, "random", "allr"),
    ]


@pytest.mark.slow
def test_real_cells_train_what_is_left(tmp_path):
    config = table.config_of(small(tmp_path), 0)
    dataset = data.load("digits")
    dense = _filters.train_dense(config, dataset)
    assert dense.filters == ("params/Conv_0/kernel", "params/Conv_1/kernel")
    cell = {"seed": 0, "fraction": 0.5, "score": "l1", "schedule": "allr"}
    found = _filters.run_cell(config, cell, dense, dataset, epochs=1, folder=tmp_path)
    file = tmp_path / "small-0-0.5-l1-allr.safetensors"
    assert jp.read_settings(file)["model"] == "small_cnn"
    infer = lambda variables, x: dense.model.apply(variables, x, train=False)  # noqa: E731
    small_apply, trained = jp.structured.load(file, infer, dense.x)
    assert sum(x.size for x in jax.tree.leaves(trained["params"])) == found["weights"]
    assert small_apply(trained, dense.x).shape == (2, 10)
    assert found["macs"] < 0.5 * found["dense_macs"]
    assert found["weights"] < found["dense_weights"]
    assert found["accuracy"] > found["accuracy_pruned"]
    # The same cell again gives the same network.
    assert (
        _filters.run_cell(config, cell, dense, dataset, epochs=1)["accuracy"] == found["accuracy"]
    )


def test_convolutions_that_a_shortcut_ties_are_not_pruned():
    model = models.ResNet(10, 1)
    x = jnp.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(lambda k: model.init(k, x, train=False), jax.random.key(0))
    apply = models.training_apply(model, ["batch_stats"])
    groups = jp.structured.channel_groups(apply, variables, x, jax.random.key(0))
    assert _filters.filters_of(groups) == tuple(
        f"params/stage{i}_block0/conv0/kernel" for i in range(3)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ("l3",)}, "unknown score 'l3'. Known: l1, random"),
        ({"schedules": ("cosine",)}, "unknown schedule 'cosine'. Known: "),
        ({"fractions": (50.0,)}, r"fractions are those removed, in \(0, 1\); got 50"),
    ],
)
def test_bad_settings(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        list(table.configs(small(tmp_path, **options)))
