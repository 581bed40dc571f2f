"""Pictures hold the numbers that they are drawn from."""

import builtins

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.plots import _mask, _style


def record(phase, steps, first, sparsity, accuracy, pruned=None):
    return jp.training.PhaseRecord(
        phase=phase,
        cycle=0,
        sparsity=sparsity,
        nonzero=1,
        prunable=2,
        evaluation_pruned=None if pruned is None else {"accuracy": pruned},
        evaluation={"accuracy": accuracy},
        discount=None,
        stability=None,
        pruned_fraction=0.0,
        first_step=first,
        learning_rates=np.linspace(0.1, 0, steps, dtype=np.float32),
        metrics={"loss": np.ones(steps)},
        info=None,
        seconds=1.0,
    )


RECORDS = (
    record("dense", 10, 0, 0.0, 0.9),
    record("cycle 1", 4, 10, 0.5, 0.8, pruned=0.6),
    record("cycle 2", 4, 20, 0.75, 0.7, pruned=0.5),  # six steps were gone back
)


def test_curves_of_records():
    curves = jp.plots.Curves.of(RECORDS)
    assert list(curves.steps) == list(range(18))
    assert curves.test == [(10, 0.9), (14, 0.8), (18, 0.7)]
    assert curves.prunings == [(10, 0.5, 0.6), (14, 0.75, 0.5)]
    assert list(curves.values) == []
    with pytest.raises(ValueError, match=r"no phase was evaluated by 'f1'; there are \['acc"):
        jp.plots.Curves.of(RECORDS, "f1")


def test_a_run_has_accuracy_above_and_the_learning_rate_below():
    upper, lower = jp.plots.run(RECORDS, title="a run").axes
    assert upper.get_title() == "a run"
    assert upper.get_ylabel() == "accuracy (%)"
    np.testing.assert_array_equal(
        lower.lines[-1].get_ydata(), np.concatenate([r.learning_rates for r in RECORDS])
    )
    [points] = [line for line in upper.lines if line.get_label() == "test, end of phase"]
    np.testing.assert_allclose(points.get_ydata(), [90, 80, 70])


def test_a_mask_is_drawn_by_what_is_kept():
    kept = np.arange(300 * 2).reshape(300, 2) % 3 == 0
    small = _mask._small(kept)
    assert small.shape == (256, 2)
    # Pixels cover one row or two; together they hold every weight once.
    rows = np.diff(np.append(np.arange(256) * 300 // 256, 300))
    assert (small * rows[:, None]).sum() == pytest.approx(kept.sum())
    mask = {f"layer_{i}": {"kernel": jnp.asarray(kept)} for i in range(5)} | {"bias": None}
    picture = jp.plots.mask(mask, most=3)
    titles = [axes.get_title().split("\n")[0] for axes in picture.axes if axes.images]
    assert titles == [f"layer_{i}/kernel" for i in range(3)]
    assert picture.get_suptitle() == "the first 3 of 5 layers"
    with pytest.raises(ValueError, match="no prunable layer"):
        jp.plots.mask({"bias": None})


def test_lines_are_means_over_seeds_in_a_band_of_their_deviation():
    rows = [{"m": m, "sparsity": s, "accuracy": a} for m, s, a in (
        ("b", 0.9, 0.8), ("b", 0.9, 0.9), ("b", 0.5, 0.95), ("a", 0.9, 0.7), ("a", 0.5, None),
        ("a", 0.5, float("nan")))]  # fmt: skip
    axes = jp.plots.over_sparsity(rows, by="m").axes[0]
    first, second = axes.lines
    np.testing.assert_allclose(first.get_data(), [[50, 90], [95, 85]])
    np.testing.assert_allclose(second.get_data(), [[90], [70]])
    band = axes.collections[0].get_paths()[0].vertices
    spread = 100 * np.std([0.8, 0.9], ddof=1)
    assert band[:, 1].max() == pytest.approx(95)
    assert band[:, 1].min() == pytest.approx(85 - spread)
    assert "std over seeds" in axes.get_ylabel()
    with pytest.raises(ValueError, match=r"no row has the columns .*'f1'.* Its columns are \['m'"):
        jp.plots.over_sparsity(rows, y="f1")


def test_rates_of_functions_need_their_length():
    with pytest.raises(ValueError, match=r"'ft' is a function: pass steps="):
        jp.plots.learning_rates({"ft": lambda step: step})
    with pytest.raises(ValueError, match="at least two masks"):
        jp.plots.overlap({"one": {"w": jnp.ones(2, bool)}})


def test_a_notebook_is_shown_a_picture():
    png = jp.plots.layers({"w": jnp.ones(2, bool)})._repr_png_()
    assert png.startswith(b"\x89PNG")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    _style._picture.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'jaxprune\[plots\]'"):
        jp.plots.layers({"w": jnp.ones(2, bool)})
    with pytest.raises(ImportError, match=r"pip install 'jaxprune\[plots\]'"):
        jp.plots.run(RECORDS)
