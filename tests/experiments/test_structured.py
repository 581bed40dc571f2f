"""Runs that remove whole channels: their tables, files, errors, and going on."""

import csv

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import channels, checks, job, models
from experiments.config import Config

SMALL = {
    "structured": "filters",
    "epochs": 1,
    "retrain_epochs": 1,
    "cycles": 2,
    "sparsity": 0.75,
    "batch_size": 256,
}


def rows(folder):
    with (folder / "summary.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_ends_in_a_small_network_with_its_speedup(tmp_path, capsys):
    config = Config(**SMALL, run_dir=tmp_path / "run")
    result = job.run(config)
    dense, _, last = rows(tmp_path / "run")
    kernels = {k: v for k, v in result.records[-1].left.widths.items() if "Conv" in k}
    assert kernels == {"Conv_0/kernel": 4, "Conv_1/kernel": 8} or set(kernels.values()) == {4, 8}
    assert int(last["macs"]) < int(dense["macs"]) / 5
    assert float(last["speedup"]) > 0
    assert dense["speedup"] == ""
    assert "speedup" in capsys.readouterr().out
    # The file gives the small network back, without the dense weights.
    model = models.create(config.model, 10)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)

    def apply(variables, x):
        return model.apply(variables, x, train=False)

    small_apply, small = jp.structured.load(tmp_path / "run" / "final.safetensors", apply, x)
    count = sum(leaf.size for leaf in jax.tree.leaves(small["params"]))
    assert count == int(last["parameters"])
    assert np.isfinite(small_apply(small, x)).all()


@pytest.mark.slow
def test_a_run_goes_on(tmp_path):
    whole = job.run(Config(**SMALL, run_dir=tmp_path / "whole"))
    chunks = iter(range(100))
    with pytest.raises(jp.training.Preempted):
        job.run(Config(**SMALL, run_dir=tmp_path / "run"), stop=lambda: next(chunks) == 2)
    again = job.run(Config(**SMALL, run_dir=tmp_path / "run", resume=True))
    for a, b in zip(
        jax.tree.leaves(whole.state.params), jax.tree.leaves(again.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert [r["accuracy"] for r in rows(tmp_path / "run")] == [
        r["accuracy"] for r in rows(tmp_path / "whole")
    ]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"structured": "rows"}, "structured is channels, filters or a configuration"),
        ({"structured": "resnet56-B"}, "is one prune; got cycles=3"),
        ({"structured": "filters", "method": "bimp"}, "goes with method imp"),
        ({"structured": "filters", "score": "snip"}, "scored by magnitude or random"),
        ({"structured": "channels", "pattern": "block_2_2"}, "pattern means nothing"),
    ],
)
def test_errors(options, match):
    with pytest.raises(ValueError, match=match):
        checks.check(Config(**options))


def test_published_widths():
    """ResNet-56 B of PFEC: the counts of the paper's network, from the command's own selection."""
    config = Config(structured="resnet56-B", model="resnet56", cycles=1)
    model = models.create("resnet56", 10)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(
        lambda k: model.init(k, np.zeros(x.shape, x.dtype), train=False), key
    )
    training, _ = channels.functions(model)

    def apply(variables, x, key):
        state = {k: v for k, v in variables.items() if k != "params"}
        return training(variables["params"], state, x, key)

    groups = jp.structured.channel_groups(apply, variables, x, key)
    scores = [np.arange(group.size, dtype=float) for group in groups]
    kept = channels.select_for(config)(groups, scores, 0.5)
    small = jp.structured.cut(variables, groups, jp.structured.masks(groups, kept))
    assert sum(int(np.prod(v.shape)) for v in jax.tree.leaves(small["params"])) == 735_712
    with pytest.raises(ValueError, match="is of 27 convolutions, but model resnet20 has 9"):
        channels.select_for(Config(structured="resnet56-B", model="resnet20", cycles=1))(
            *_resnet20(), 0.5
        )


def _resnet20():
    model, key = models.create("resnet20", 10), jax.random.key(0)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    variables = jax.eval_shape(
        lambda k: model.init(k, np.zeros(x.shape, x.dtype), train=False), key
    )

    def apply(variables, x):
        return model.apply(variables, x, train=False)

    groups = jp.structured.channel_groups(apply, variables, x)
    return groups, [np.ones(group.size) for group in groups]
