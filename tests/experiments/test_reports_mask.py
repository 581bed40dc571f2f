"""The table and the histogram of a mask."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.axes import Axes
from rich.console import Console

import jaxprune as jp
from experiments import reports
from experiments.reports import _mask

PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (20, 30)), "bias": jnp.ones(30)},
    "b": {"kernel": jax.random.normal(jax.random.key(1), (30, 5)), "bias": jnp.ones(5)},
}
# The 300 largest of all 750: magnitude pruning to 60 %.
ALL = np.concatenate([np.ravel(PARAMS[name]["kernel"]) for name in "ab"])
THRESHOLD = float(np.sort(np.abs(ALL))[450])
MASK = {
    name: {"kernel": jnp.abs(PARAMS[name]["kernel"]) >= THRESHOLD, "bias": None} for name in "ab"
}
PRUNED = jp.apply_mask(PARAMS, MASK)


def printed(params, mask):
    console = Console(file=io.StringIO(), width=100)
    reports.print_mask_table(params, mask, console)
    return console.file.getvalue()


def test_table():
    lines = printed(PRUNED, MASK).splitlines()
    rows = {row.path: row for row in jp.metrics.sparsity_per_leaf(MASK)}
    for path, shape in (("a/kernel", "20 x 30"), ("b/kernel", "30 x 5")):
        [line] = [line for line in lines if path in line]
        assert shape in line
        assert f" {rows[path].kept} " in line
        assert f"{100 * rows[path].sparsity:.2f} %" in line
    [total] = [line for line in lines if "all prunable" in line]
    assert "300" in total
    assert "60.00 %" in total
    assert total.count("█") == 12
    assert "bias" not in "".join(lines)


def test_bars_do_not_claim_more_than_is_there():
    full, empty = "█" * 20, "░" * 20
    assert (_mask._bar(0.0), _mask._bar(1.0)) == (empty, full)
    assert _mask._bar(0.001) == "█" + empty[1:]
    assert _mask._bar(0.999) == full[1:] + "░"
    assert _mask._bar(0.5) == "█" * 10 + "░" * 10


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: (label, counts, edges) of every histogram, positions of the lines."""
    histograms, lines = [], []
    stairs, axvline = Axes.stairs, Axes.axvline

    def keep_stairs(self, values, edges, **options):
        histograms.append((options["label"], np.asarray(values), np.asarray(edges)))
        return stairs(self, values, edges, **options)

    def keep_line(self, x, **options):
        lines.append(x)
        return axvline(self, x, **options)

    monkeypatch.setattr(Axes, "stairs", keep_stairs)
    monkeypatch.setattr(Axes, "axvline", keep_line)
    return histograms, lines


def test_histogram_before_and_after(tmp_path, drawn):
    path = tmp_path / "weights.png"
    retrained = jp.apply_mask(jax.tree.map(lambda x: 2.0 * x, PARAMS), MASK)
    reports.draw_weight_histogram(retrained, MASK, path, before=PARAMS)
    assert path.read_bytes()[:4] == b"\x89PNG"
    histograms, lines = drawn
    assert [label for label, _, _ in histograms] == [
        "all 750 before the last prune",
        "the 300 kept, before it",
        "the 300 kept, now",
    ]
    assert [int(counts.sum()) for _, counts, _ in histograms] == [750, 300, 300]
    assert lines == [pytest.approx(-THRESHOLD), pytest.approx(THRESHOLD)]
    # No kept weight falls into a bin between the lines, and none of the others outside.
    (_, everything, edges), (_, kept, _), _ = histograms
    inside = (edges[:-1] > -THRESHOLD) & (edges[1:] < THRESHOLD)
    assert inside.any()
    assert kept[inside].sum() == 0
    assert everything[inside].sum() == 450
    assert edges[0] <= -2 * np.abs(ALL).max()
    assert edges[-1] >= 2 * np.abs(ALL).max()


def test_histogram_without_the_weights_before(tmp_path, drawn):
    reports.draw_weight_histogram(PRUNED, MASK, tmp_path / "weights.png")
    histograms, lines = drawn
    assert [(label, int(counts.sum())) for label, counts, _ in histograms] == [
        ("the 300 kept", 300)
    ]
    assert lines[1] == pytest.approx(THRESHOLD)


@pytest.mark.parametrize("value", [jnp.nan, -jnp.inf])
def test_a_diverged_network_is_drawn_and_noted(tmp_path, drawn, value):
    index = np.argwhere(np.asarray(MASK["a"]["kernel"]))[0]
    broken = {**PRUNED, "a": {**PRUNED["a"], "kernel": PRUNED["a"]["kernel"].at[*index].set(value)}}
    reports.draw_weight_histogram(broken, MASK, tmp_path / "weights.png", before=PARAMS)
    label, counts, _ = drawn[0][-1]
    assert label == "the 300 kept, now (1 NaN or infinite)"
    assert counts.sum() == 299


def test_the_ends(tmp_path, drawn):
    nothing = jax.tree.map(jnp.zeros_like, MASK)
    for params, mask in (
        (PARAMS, nothing),
        (jax.tree.map(jnp.zeros_like, PARAMS), jp.masks.dense(PARAMS)),
        (jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS), MASK),
        (jax.tree.map(lambda x: x * jnp.nan, PARAMS), MASK),
    ):
        reports.draw_weight_histogram(params, mask, tmp_path / "weights.png")
        assert (tmp_path / "weights.png").exists()


def test_of_other_parameters(tmp_path):
    other = {"a": PARAMS["a"], "c": PARAMS["b"]}
    with pytest.raises(ValueError, match="mask is of another tree: it has 'b/bias'"):
        printed(other, MASK)
    for arguments in ((other, None), (PRUNED, other)):
        with pytest.raises(ValueError, match="mask is of another tree"):
            reports.draw_weight_histogram(
                arguments[0], MASK, tmp_path / "weights.png", before=arguments[1]
            )
    assert not (tmp_path / "weights.png").exists()
