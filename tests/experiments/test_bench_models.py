"""The table of what can be removed of other people's models."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from experiments.bench.models import __main__ as command
from experiments.bench.models import measure, report
from experiments.bench.models.entry import Entry, Model, drawn

pytestmark = pytest.mark.usefixtures("jax_defaults")


def mlp(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def weights():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 8), "b": (8, 2), "unused": (4,)}
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def grouped():
    return jp.structured.channel_groups(mlp, weights(), jnp.ones((2, 3)))


def test_parameters_on_removable_channels_are_counted_once():
    # All 24 + 16 weights of the two kernels, not the 4 that nothing reads.
    assert measure.removable(grouped()) == pytest.approx(40 / 44)


def test_reasons_are_of_what_cannot_go_at_all():
    assert measure.reasons(grouped()) == [("no result depends on it", pytest.approx(4 / 44))]


def test_reasons_name_no_axes():
    params = {"w": jnp.ones((3, 2))}
    groups = jp.structured.channel_groups(lambda p, x: x @ p["w"], params, jnp.ones((2, 3)))
    assert measure.removable(groups) == 0
    assert measure.reasons(groups) == [
        ("it is a result", 1.0),
        ("it meets an input, in dot_general", 1.0),
    ]


def test_half_goes_and_every_parameter_keeps_its_best():
    def side_by_side(p, x):
        return jnp.concatenate([jnp.tanh(x @ p["a"]), jnp.tanh(x @ p["b"])], -1) @ p["z"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.full((3, 4), 0.1), "z": jnp.ones((8, 2))}
    params["b"] = params["b"].at[:, 2].set(0.2)
    groups = jp.structured.channel_groups(side_by_side, params, jnp.ones((2, 3)))
    (kept,) = measure.halves(groups, jp.structured.magnitude(groups, params))
    assert kept.tolist() == [True] * 4 + [False, False, True, False]


def test_errors_are_of_the_largest_result_and_infinite_where_one_is_no_number():
    assert measure.error([jnp.array([1.0, 2.0])], [jnp.array([1.0, 4.0])]) == 0.5
    assert measure.error([jnp.array([jnp.nan])], [jnp.array([jnp.nan])]) == float("inf")


def test_noise_leaves_no_zeros_and_variances_positive():
    moved = drawn({"b": jnp.zeros(9), "var": jnp.full(999, 0.01)})
    assert (np.asarray(moved["b"]) != 0).all()
    assert (np.asarray(moved["var"]) >= 0).all()


@pytest.mark.parametrize("name", [n for n in command.ENTRIES if "after" in n])
def test_models_by_hand_shrink_exactly(name):
    (found,) = command.one(name, command.ENTRIES[name], command.Settings(repeats=0))
    assert found["removable"] > 0.99
    assert found["left_at_half"] < 0.5
    assert found["largest_error"] < 1e-5
    assert found["small_macs"] < 0.5 * found["dense_macs"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in command.ENTRIES if "after" not in n])
def test_models_of_packages_shrink_exactly(name, monkeypatch):
    entry = command.ENTRIES[name]
    for module in entry.modules:
        pytest.importorskip(module, exc_type=ImportError)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    (found,) = command.one(name, entry, command.Settings(repeats=0))
    assert found["removable"] > 0.9
    assert found["left_at_half"] < 0.6


def test_wrong_results_are_an_error(monkeypatch):
    real = jp.structured.shrink

    def wrong(*arguments):
        apply, small = real(*arguments)
        return lambda params, x: apply(params, x) + 1.0, small

    monkeypatch.setattr(measure.jp.structured, "shrink", wrong)
    entry = Entry("", (), lambda: Model(mlp, weights(), (jnp.ones((2, 3)),)), "2 x 3")
    with pytest.raises(RuntimeError, match=r"mine: small and masked results differ by .* of the"):
        command.one("mine", entry, command.Settings(repeats=0))


def row(**changed):
    return {
        "model": "mine", "inputs": "2 x 3", "parameters": 44, "removable": 0.9999,
        "left_at_half": 0.5, "reasons": [["a", 0.1], ["b", 0.0001], ["c", 0.0], ["d", 0.0]],
        "seconds": 0.25, "largest_error": 3e-7, "theoretical_speedup": 2.0, "speedup": None,
        **changed,
    }  # fmt: skip


def test_cells():
    cells = report._cells(row())
    assert cells[3] == "> 99.9 %"
    assert cells[5] == "10.0 % a; < 0.1 % b; < 0.1 % c; 1 more"
    assert cells[-2:] == ["2.00", "–"]
    timed = report._cells(row(speedup=1.5, speedup_low=1.4, speedup_high=1.75))
    assert timed[-1] == "1.50 (1.40–1.75)"


def test_a_page_keeps_what_is_around_the_table(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.put_into(page, "| new |")
    report.put_into(page, "| newer |")
    assert page.read_text() == f"before\n{report.BEGIN}\n| newer |\n{report.END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match=r"does not hold .* once each. Add both lines"):
        report.put_into(page, "| new |")


def test_what_is_not_installed_is_left_out_and_named(tmp_path, monkeypatch):
    there = Entry("", (), lambda: Model(mlp, weights(), (jnp.ones((2, 3)),)), "2 x 3")
    monkeypatch.setattr(
        command, "ENTRIES", {"mine": there, "theirs": there._replace(modules=("no_such_module",))}
    )
    given = command.Settings(repeats=0, out=tmp_path / "models.json")
    table = command.run(given, console=Console(file=io.StringIO()))
    assert "| mine |" in table
    assert "1 models. Left out: theirs: no_such_module not installed." in table
    assert len(json.loads(given.out.read_text())["results"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ("AlexNet",)}, "no model has 'AlexNet' in its name. Known: ResNet-18"),
        ({"repeats": 3}, "repeats is at least 6"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        command.chosen(command.Settings(**options))


def test_there_are_at_least_sixteen():
    assert len(command.ENTRIES) >= 16
