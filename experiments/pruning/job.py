"""One pruning of a pretrained network: prune, repair, measure, save."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console

import jaxprune as jp
from experiments import caches
from experiments.bench.common import machine, tables
from experiments.pretrained import write
from experiments.pruning import calibrated, retraining, subjects
from experiments.pruning.memory import Peak
from experiments.pruning.options import Settings
from experiments.pruning.subject import Subject

Row = dict[str, Any]


def run(settings: Settings, *, console: Console | None = None) -> list[Row]:
    """Prunes a network as the settings say, and writes the folder of the results.

    Returns:
      A row each for the dense network, the pruned one and, if there was any, the retrained one.
    """
    console = console or Console()
    subject = subjects.load(settings, console)
    params, mask, rows = pruned(settings, subject, caches.teller(console))
    folder = settings.folder()
    save(folder, settings, subject, params, mask, rows)
    console.print("\n".join(table(rows, subject)), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Results: {folder}", markup=False, highlight=False, soft_wrap=True)
    return rows


def pruned(
    settings: Settings, subject: Subject, say: Callable[[str], object]
) -> tuple[Any, Any, list[Row]]:
    """The pruned parameters, their mask, and a row for every step."""
    dense = subject.network.params
    rows: list[Row] = []
    error = _output_error(subject)

    def note(step: str, params: Any, seconds: float, peak: int, **more: Any) -> None:
        values = subject.evaluate(params)
        rows.append(
            {
                "step": step,
                **values,
                "output_error": error(params),
                **more,
                "minutes": seconds / 60,
                "peak_bytes": peak,
            }
        )
        say(f"{step}: {subject.measure} {values[subject.measure]:.4g} after {seconds:.0f} s")

    note("dense", dense, 0.0, 0)
    begin, peak = time.perf_counter(), Peak()
    params, mask, errors = calibrated.prune(
        subject, settings.method, settings.sparsity, refit=settings.retrain == "refit", say=say
    )
    jax.block_until_ready(params)
    what = f"{settings.method} {settings.sparsity}"
    what += " + refit" if settings.retrain == "refit" else ""
    spent = time.perf_counter() - begin
    known = {name: error for name, error in errors.items() if error is not None}
    more: Row = {"sparsity": jp.sparsity(mask)}
    if known:
        worst = max(known, key=lambda name: known[name])
        more["layer_error"] = sum(known.values()) / len(known)
        more["worst"] = f"{known[worst]:.4f} {worst}"
    note(what, params, spent, peak.bytes(), **more)
    if settings.retrain in ("none", "refit"):
        return params, mask, rows
    begin, peak = time.perf_counter(), Peak()
    params, trained = retrain(settings, subject, params, mask, say)
    jax.block_until_ready(params)
    jp.assert_sparse(params, mask)
    spent = time.perf_counter() - begin
    note(settings.retrain, params, spent, peak.bytes(), sparsity=jp.sparsity(mask), trained=trained)
    return params, mask, rows


def retrain(
    settings: Settings, subject: Subject, params: Any, mask: Any, say: Callable[[str], object]
) -> tuple[Any, int]:
    """The retrained parameters, and how many numbers were trained."""
    if settings.retrain == "reconstruct":
        rate = settings.learning_rate or subject.learning_rate
        return calibrated.reconstruct(subject, params, mask, rate, say)
    return retraining.train(
        settings.retrain,
        subject,
        params,
        mask,
        subject.network.params,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        rank=settings.rank,
        seed=settings.seed,
        say=say,
    )


def _output_error(subject: Subject) -> Callable[[Any], float]:
    """``sum |f(dense) - f(params)|^2 / sum |f(dense)|^2`` over the calibration examples."""
    apply = subject.network.apply

    def sums(params: Any, dense: Any, batch: Any) -> Any:
        wanted = apply(dense, batch)
        return jax.numpy.stack([((wanted - apply(params, batch)) ** 2).sum(), (wanted**2).sum()])

    compiled = jax.jit(sums)

    def error(params: Any) -> float:
        dense = subject.network.params
        parts = [np.asarray(compiled(params, dense, b), float) for b in subject.calibration]
        lost, whole = np.sum(parts, 0)
        return float(lost / whole)

    return error


def save(
    folder: Any, settings: Settings, subject: Subject, params: Any, mask: Any, rows: list[Row]
) -> None:
    """Writes pruned.safetensors, model.safetensors and result.json.

    The first holds weights, mask and settings, for `jp.load`; the second the tensors by the names
    that the network came with, for PyTorch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = dataclasses.asdict(settings)
    held = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in values.items()}
    document = {
        "settings": held,
        "calibration_data": dict(subject.described),
        "batch_size": subject.batch_size,
        "learning_rate": settings.learning_rate or subject.learning_rate,
    }
    jp.save(folder / "pruned.safetensors", params, mask, settings=document)
    write(folder, subject.network, params)
    document |= {"rows": rows, "machine": machine.describe(("jax", "jaxlib", "numpy"))}
    (folder / "result.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def table(rows: list[Row], subject: Subject) -> list[str]:
    """The rows as Markdown."""
    names = [n for n in rows[0] if n not in ("step", "output_error", "minutes", "peak_bytes")]
    head = " | ".join(
        [
            "step",
            *(f">{n.replace('_', ' ')}" for n in names),
            ">output error",
            ">sparsity",
            ">layer error",
            ">trained",
            ">minutes",
            ">peak memory, GB",
        ]
    )
    lines = [
        [
            row["step"],
            *(f"{row[n]:.4f}" for n in names),
            f"{row['output_error']:.4f}",
            f"{row['sparsity']:.4f}" if "sparsity" in row else "",
            f"{row['layer_error']:.4f}" if "layer_error" in row else "",
            f"{row['trained']:,}" if "trained" in row else "",
            f"{row['minutes']:.2f}",
            f"{row['peak_bytes'] / 1e9:.2f}" if row["peak_bytes"] else "",
        ]
        for row in rows
    ]
    what = ", ".join(f"{k} {v}" for k, v in subject.described.items())
    return [
        *tables.table(head, lines),
        "",
        f"{subject.network.name}; calibration: {what}. The output error is relative, squared, over "
        "the calibration examples.",
    ]
