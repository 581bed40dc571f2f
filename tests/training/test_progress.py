"""The line of progress, and how records print."""

import csv
import functools
import io

import jax
import numpy as np

import jaxprune as jp
from jaxprune import _progress
from jaxprune._progress import Line, of_chunk
from tests.training import problem
from tests.training.test_imp import imp


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_gets_a_line_a_tenth():
    out = io.StringIO()
    line = Line(100, stream=out)
    line.start(0)
    for done in range(1, 101):
        line.show("dense", done, {"loss": 0.5})
    line.end("50 % sparse")
    lines = out.getvalue().splitlines()
    assert len(lines) == 12  # the first step, ten tenths, the end
    assert lines[1].startswith("dense  10/100 steps  loss 0.5")
    assert lines[-1].startswith("50 % sparse  100 steps, 0 s")


def test_a_terminal_has_one_line_that_changes():
    out = Terminal()
    line = Line(10, stream=out)
    for done in range(11):
        line.show("dense", done)  # all but the first come too soon after it
    line.end("done")
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert [part.split("  ")[0] for part in text.split("\r")[1:]] == ["dense", "done"]


def test_a_notebook_replaces_what_it_has_shown(monkeypatch):
    shown = []

    class Handle:
        def update(self, content, *, raw):
            shown.append(("update", content["text/plain"], raw))

    def display(content, *, raw, display_id):
        shown.append(("display", content["text/plain"], raw and display_id))
        return Handle()

    monkeypatch.setattr(_progress, "_notebook", lambda: display)
    line = Line(10)
    line.show("dense", 5)
    line.show("dense", 6)  # too soon
    line.end("done")
    assert [(how, text.split("  ")[0], ok) for how, text, ok in shown] == [
        ("display", "dense", True),
        ("update", "done", True),
    ]


def test_a_sweep_has_one_line_for_all_its_runs(capsys):
    def run(seed, train):
        return train(problem.state(), [0.1] * (10 * seed + 10))[1]["loss"].shape

    runs = [functools.partial(run, seed) for seed in range(2)]
    loops = [jp.training.make_loop(problem.step(), problem.batch_at)] * 2
    assert jp.training.sweep(runs, loops, progress=True) == [(10,), (20,)]
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("2 runs ended  30 steps")


def test_numbers_of_a_chunk():
    shown = of_chunk(np.array([0.2, 0.1]), {"loss": np.array([1.0, 3.0]), "norm": np.ones(2)})
    assert shown == {"loss": 2.0, "learning rate": 0.1}


def test_a_run_tells_where_it_is_and_ends_in_the_same_place(capsys):
    chunks = []
    train = jp.training.make_loop(
        problem.step(), problem.batch_at, on_chunk=lambda *chunk: chunks.append(chunk[0])
    )
    options = {"pretraining_steps": 60, "cycles": 1, "retraining_steps": 10, "sparsity": 0.5}
    silent = imp(train, **options)
    assert capsys.readouterr().err == ""
    compiled, own = train.compiled._cache_size(), list(chunks)
    told = imp(train, **options, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert train.compiled._cache_size() == compiled
    assert chunks == own * 2  # the loop's own reports go on
    assert [line.split("  ")[0] for line in lines] == ["dense"] * 3 + ["cycle 1", "50 % sparse"]
    assert "50/70 steps  loss" in lines[1]
    for a, b in zip(
        jax.tree.leaves(silent.state.params), jax.tree.leaves(told.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_result_is_a_short_text_and_rows_of_one_table():
    options = {"pretraining_steps": 60, "cycles": 1, "retraining_steps": 10, "sparsity": 0.5}
    result = imp(**options)
    assert len(repr(result).splitlines()) == 3
    assert "<cycle 1: 50 % sparse, accuracy 0." in repr(result)
    dense, cycle = rows = result.to_dicts()
    assert list(dense) == list(cycle)
    assert dense["accuracy_pruned"] is None
    assert cycle["accuracy_pruned"] == result.records[1].evaluation_pruned["accuracy"]
    assert (dense["steps"], cycle["steps"]) == (60, 10)
    writer = csv.DictWriter(io.StringIO(), list(dense))
    writer.writerows(rows)
    html = result._repr_html_()
    assert html.count("<tr>") == 3
    assert "width:50%" in html
    assert result.records[1]._repr_html_().count("<tr>") == 2


def test_a_report_is_a_table_with_bars_in_a_notebook():
    params = {"a<b": {"kernel": np.array([[1.0, 0.0]], np.float32), "bias": np.ones(2, np.float32)}}
    report = jp.masks.report(params)
    assert isinstance(report, str)
    assert repr(report) == str(report)
    html = report._repr_html_()
    assert html.count("<tr>") == 4
    assert html.count("width:50%") == 2  # of the kernel and of all; a bias has no bar
    assert "a&lt;b/kernel" in html
    abstract = jp.masks.report(jax.eval_shape(lambda: params))
    assert "width:120px" not in abstract._repr_html_()
