"""Plots of the results of a sweep."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jaxprune as jp
from experiments.tasks import DEFAULT, KINDS, Kind


def draw(
    results: Any,
    folder: pathlib.Path,
    runs: pathlib.Path | None,
    title: str,
    kind: Kind = KINDS[DEFAULT],
) -> list[str]:
    """Draws what the results have enough of.

    Args:
      results: a data frame of runs.
      folder: where the pictures go.
      runs: the folder of the runs, for their learning rates; `None` if it is not at hand.
      title: of all pictures.
      kind: of the task of the runs.

    Returns:
      The names of the pictures.
    """
    final = results.filter(results["final"]).to_dicts()
    made = []
    for name, axis, words in (
        (
            f"{kind.measure.name}_over_sparsity.png",
            "phase_sparsity",
            "sparsity: weights removed (%)",
        ),
        (f"{kind.measure.name}_over_retraining.png", "retrain_epochs", "epochs of retraining"),
    ):
        key = "sparsity" if axis == "phase_sparsity" else axis
        if len({run[key] for run in final}) > 1:
            _lines(final, key, axis, words, folder / name, title, kind)
            made.append(name)
    if len({run["label"] for run in final}) > 1 and all(r[kind.speed] for r in final):
        _speed(final, folder / f"{kind.measure.name}_over_speed.png", title, kind)
        made.append(f"{kind.measure.name}_over_speed.png")
    if runs is not None and _rates(final, runs, folder / "learning_rates.png", title):
        made.append("learning_rates.png")
    return made


def _figure(panels: int = 1) -> Any:
    figure = jp.plots.figure(2 + 4.2 * panels, 4, columns=panels)
    figure.set_dpi(130)
    return figure, figure.axes


def _lines(
    final: Sequence[dict[str, Any]],
    key: str,
    axis: str,
    words: str,
    path: pathlib.Path,
    title: str,
    kind: Kind,
) -> None:
    """Mean over seeds with a band of one standard deviation, a line a label, a panel a setting."""
    others = [n for n in ("data", "model", "cycles", "sparsity", "retrain_epochs") if n != key]
    settings = sorted({tuple(run[n] for n in others) for run in final}, key=str)
    settings = [s for s in settings if len({r[key] for r in _of(final, others, s)}) > 1][:4]
    figure, axes = _figure(max(len(settings), 1))
    # All panels have the same lines in the same order, so a label has one colour.
    labels = list(dict.fromkeys(run["label"] for run in final))
    scale = 100 if axis == "phase_sparsity" else 1
    for panel, setting in zip(axes, settings, strict=False):
        here = sorted(_of(final, others, setting), key=lambda run: labels.index(run["label"]))
        # Seeds of one target belong together, also where a method misses it by a little.
        places: dict[Any, Any] = {}
        for run in here:
            places.setdefault((run["label"], run[key]), run[axis])
        here = [{**run, axis: places[run["label"], run[key]]} for run in here]
        jp.plots.over_sparsity(
            here,
            x=axis,
            y=kind.measure.name,
            by="label",
            scale=(scale, kind.measure.scale),
            labels=(words, ""),
            colours={label: jp.plots.COLOURS[i % 8] for i, label in enumerate(labels)},
            axes=panel,
        )
        named = (f"{n} {v}" for n, v in zip(others, setting, strict=True) if n not in ("data",))
        panel.set_title(", ".join(named), fontsize=8)
        if axis != "phase_sparsity":
            panel.set_xticks(sorted({run[axis] for run in here}))
        panel.get_legend().remove()
    axes[0].set_ylabel(f"{_of_test(kind)}, mean ± std over seeds")
    axes[-1].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def _of(final: Sequence[dict[str, Any]], names: Sequence[str], values: Any) -> list[dict[str, Any]]:
    return [run for run in final if tuple(run[n] for n in names) == values]


def _of_test(kind: Kind) -> str:
    unit = f" ({kind.measure.unit})" if kind.measure.unit else ""
    return f"test {kind.measure.label}{unit}"


def _speed(final: Sequence[dict[str, Any]], path: pathlib.Path, title: str, kind: Kind) -> None:
    figure, (panel,) = _figure()
    for colour, label in zip(
        jp.plots.COLOURS * 4, dict.fromkeys(r["label"] for r in final), strict=False
    ):
        own = [run for run in final if run["label"] == label]
        x = [run[kind.speed] for run in own]
        panel.scatter(
            x,
            [kind.measure.scale * r[kind.measure.name] for r in own],
            s=18,
            color=colour,
            label=label,
        )
    panel.set_xlabel(f"training {kind.examples} a second, last phase")
    panel.set_ylabel(_of_test(kind))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def _rates(
    final: Sequence[dict[str, Any]], runs: pathlib.Path, path: pathlib.Path, title: str
) -> bool:
    """The learning rates of one run a label, from its log."""
    seen: dict[str, list[float]] = {}
    longest = max((run["steps"] or 0 for run in final), default=0)
    for run in final:
        log = runs / run["run"] / "metrics.jsonl"
        if run["label"] in seen or not log.exists() or run["steps"] != longest:
            continue
        rates = []
        for line in log.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] == "train" and row["cycle"] == run["cycle"]:
                rates.append(row["learning_rate"])
        if rates:
            seen[run["label"]] = rates
    if len(seen) < 2:
        return False
    figure = jp.plots.learning_rates(seen, logarithmic=True, title=title)
    figure.savefig(path, dpi=130)
    return True
