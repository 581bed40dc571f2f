"""The pictures of a run show their points, and none hides another."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments import reports
from jaxprune.plots import _run


@pytest.fixture
def figures(monkeypatch):
    """What was drawn, in order."""
    drawn, save = [], Figure.savefig

    def keep(self, *args, **options):
        drawn.append(self)
        return save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def log_of(late):
    """Accuracy rises fast and stays; one pruning costs nothing, the next a little."""
    log = reports.Log()
    rising = [0.1, *[late] * 199]
    log.add_chunk(0, np.full(200, 0.1), np.array(rising))
    log.validation = [(10 * (i + 1), late) for i in range(20)]
    log.test = [(100, late), (150, late), (200, late)]
    log.prunings = [(100, 0.7764, late), (150, 0.95, late - 0.02)]
    return log


def test_accuracy_is_zoomed_to_its_points(tmp_path, figures):
    reports.draw(log_of(0.97), tmp_path, "a run")
    accuracy, rate = figures
    low, high = accuracy.axes[0].get_ylim()
    assert 94 < low < 95
    assert 97 < high < 98
    words = [text.get_text() for text in accuracy.axes[0].texts]
    assert words == ["77.64 % sparse", "95 % sparse"]
    assert rate.axes[0].get_ylim()[0] == 0


def test_markers_of_one_step_are_beside_each_other(tmp_path, figures):
    reports.draw(log_of(0.97), tmp_path, "a run")
    axes = figures[0].axes[0]
    places = [
        line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
        for line in axes.lines
        if line.get_marker() in ("o", "v")
    ]
    assert len(places) == 2
    distance = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1)
    assert distance.min() > figures[0].dpi * 2 * _run._SHIFT / 72 - 1e-3


@pytest.mark.parametrize("cycles", [1, 2, 12, 60])
@pytest.mark.parametrize("late", [False, True])
def test_sparsities_of_many_prunings_do_not_lie_on_each_other(tmp_path, figures, cycles, late):
    log = reports.Log()
    log.add_chunk(0, np.full(400 + 100 * cycles, 0.1), np.full(400 + 100 * cycles, 0.9))
    first = 500 if late else 400
    log.prunings = [(first + 100 * c, 1 - 0.9 ** (c + 1), 0.9) for c in range(cycles)]
    reports.draw(log, tmp_path, "a run")
    axes = figures[0].axes[0]
    canvas = FigureCanvasAgg(figures[0])
    canvas.draw()
    places = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(places))
    assert places[-1].x1 < figures[0].bbox.x1
    last = 100 * (1 - 0.9**cycles)
    assert axes.texts[-1].get_text().startswith((f"{last:.3g} %", f"{last:.4g} % sparse"))
    assert "sparse" in axes.texts[-1].get_text() or "sparsity" in axes.get_xlabel()


def test_layers_are_in_the_order_of_their_numbers(tmp_path, figures):
    mask = {f"Block_{i}": {"kernel": jnp.ones(3, bool)} for i in (0, 1, 2, 10, 11)}
    reports.draw_layers(mask, tmp_path / "sparsity.png", "a run")
    names = [t.get_text() for t in figures[0].axes[0].get_yticklabels()]
    assert names == [f"Block_{i}/kernel" for i in (0, 1, 2, 10, 11)]


def test_limits_of_nothing_and_of_nan():
    assert _run._zoom([]) == (-1.0, 114.0)
    assert _run._zoom([float("nan"), 50.0]) == pytest.approx((49.94, 50.14))


def test_sparsity_of_each_layer(tmp_path, figures):
    mask = {
        "a": {"kernel": jnp.arange(100) >= 97},
        "b": {"kernel": jnp.arange(100) >= 10},
        "c": None,
    }
    reports.draw_layers(mask, tmp_path / "sparsity.png", "a run")
    axes = figures[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([97, 10])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a/kernel", "b/kernel"]
    assert [t.get_text() for t in axes.texts] == [
        "97.00 %, 3 of 100 left",
        "10.00 %, 90 of 100 left",
    ]
    assert "all layers, 53.50 %" in axes.get_xlabel()
    assert axes.yaxis_inverted()
