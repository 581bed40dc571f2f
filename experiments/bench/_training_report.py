"""What the measurements of training loops say: rows, targets, and the tables."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench import _pairs
from experiments.bench._training_peaks import Peak
from experiments.bench._training_run import (
    CHECKPOINTS,
    CYCLES,
    EPOCHS,
    EVALUATIONS,
    RETRAINING_EPOCHS,
)

Row = dict[str, Any]

# What was aimed at.
OVER_DENSE, OVER_TORCH, MOST_OVERHEAD = 0.97, 3.0, 0.05
_TORCH_CASE = ("resnet56", 128)

OURS, DENSE, TORCH = "ours", "dense", "torch"


def row(
    model: str,
    batch: int,
    *,
    facts: Mapping[str, Any],
    pairs: Mapping[str, _pairs.Pairs],
    steps: int,
    flops: int,
    peak: Peak | None,
) -> Row:
    """One network at one batch size, as the JSON file holds it.

    Args:
      model: its name.
      batch: images in a batch.
      facts: what is known beside the times; strings say why something was not measured.
      pairs: times of blocks, ours as the base, of "dense" and "torch", as far as measured.
      steps: in a block.
      flops: of a training step.
      peak: of the device.
    """
    bases = [seconds / steps for both in pairs.values() for seconds in both.base]
    ours = statistics.median(bases) if bases else None
    out: Row = {"model": model, "batch": batch, **facts, "pairs": None, "block_steps": steps}
    out["ours_seconds"] = ours
    out["ours_images_per_second"] = None if ours is None else batch / ours
    for name in (DENSE, TORCH):
        both = pairs.get(name)
        seconds = None if both is None else statistics.median(both.other) / steps
        ratio = None if both is None else both.ratio
        out |= {
            f"{name}_seconds": seconds,
            f"{name}_images_per_second": None if seconds is None else batch / seconds,
            f"over_{name}": ratio and ratio.median,
            f"over_{name}_low": ratio and ratio.low,
            f"over_{name}_high": ratio and ratio.high,
            f"{name}_blocks": both and list(zip(both.base, both.other, strict=True)),
        }
        out["pairs"] = len(both.base) if both else out["pairs"]
    rate = None if ours is None else flops / ours
    return out | {
        "step_flops": flops,
        "flops_per_second": rate,
        "of_peak_flops": None if rate is None or peak is None else rate / peak.flops_per_second,
    }


def targets(rows: Sequence[Row], runs: Sequence[Row], *, backend: str) -> list[dict[str, Any]]:
    """What was aimed at, what was measured, and whether it is met, `None` where not measured.

    A ratio meets its limit by its median. ``open`` is the interval where the limit lies inside:
    then the measurement proves neither.
    """
    out = []
    for r in rows:
        case = f"{r['model']}, batch {r['batch']}"
        wanted = [("images/s over the dense loop", DENSE, OVER_DENSE)]
        if backend in ("gpu", "cuda") and (r["model"], r["batch"]) == _TORCH_CASE:
            wanted.append(("images/s over PyTorch", TORCH, OVER_TORCH))
        for what, name, limit in wanted:
            low, high = r[f"over_{name}_low"], r[f"over_{name}_high"]
            measured = r[f"over_{name}"]
            out.append(
                {
                    "target": f"{case}: {what}, at least",
                    "limit": limit,
                    "measured": measured,
                    "met": None if measured is None else measured >= limit,
                    "open": None if measured is None or not low < limit <= high else [low, high],
                }
            )
    for r in runs:
        out.append(
            {
                "target": f"{r['model']}, batch {r['batch']}: all else over training, below",
                "limit": MOST_OVERHEAD,
                "measured": r["overhead_fraction"],
                "met": r["overhead_fraction"] < MOST_OVERHEAD,
                "open": None,
            }
        )
    return out


def markdown(document: Mapping[str, Any]) -> str:
    """The tables and what they were measured on, from the contents of the JSON file."""
    lines = [
        "| model | batch | ours images/s | dense | PyTorch | ours / dense | 95 % interval "
        "| ours / PyTorch | 95 % interval | ms a step | TFLOP/s | of peak |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in document["results"]:
        cells = [r["model"], str(r["batch"])]
        if r["not_measured"]:
            cells += [r["not_measured"], *[""] * 9]
        else:
            torch = _count(r["torch_images_per_second"])
            cells += [
                _count(r["ours_images_per_second"]),
                _count(r["dense_images_per_second"]),
                r["torch_not_measured"] or torch,
                *_ratio(r, DENSE),
                *_ratio(r, TORCH),
                f"{1000 * r['ours_seconds']:.3g}",
                f"{r['flops_per_second'] / 1e12:.3g}",
                _percent(r["of_peak_flops"]),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    if document["runs"]:
        lines += [
            "",
            "| whole run | batch | training s | compile s | a prune s | an evaluation s "
            "| a checkpoint s | all else / training |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
    for r in document["runs"]:
        save = r["checkpoint_seconds"]
        cells = [
            r["model"],
            str(r["batch"]),
            f"{r['train_seconds']:,.0f}",
            f"{r['compile_seconds']:.1f}",
            f"{r['prune_seconds']:.3f}",
            f"{r['evaluate_seconds']:.2f}",
            f"{save:.2f}",
            f"{100 * r['overhead_fraction']:.2f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| target | limit | measured | met |", "|---|---:|---:|---|"]
    words = {True: "yes", False: "no", None: "not measured"}
    for t in document["targets"]:
        measured = "–" if t["measured"] is None else f"{t['measured']:.3f}"
        met = words[t["met"]]
        if t["open"] is not None:
            low, high = t["open"]
            met += f" by the median; not proven, the interval is {low:.3f}–{high:.3f}"
        lines.append(f"| {t['target']} | {t['limit']:g} | {measured} | {met} |")
    return "\n".join([*lines, "", *_words(document)])


def _words(document: Mapping[str, Any]) -> list[str]:
    """What the tables must be read with."""
    settings, machine, peak = document["settings"], document["machine"], document["peak"]
    chosen = [
        f"{r['model']}, batch {r['batch']}: {r['parameters']:,} parameters; dense loop "
        f"{r['dense_loop']}; PyTorch {r['torch_format'] or '–'}; {r['pairs']} pairs of "
        f"{r['block_steps']} step(s)."
        for r in document["results"]
        if not r["not_measured"]
    ]
    of_peak = "unknown for this device"
    if peak is not None:
        of_peak = f"{peak['flops_per_second'] / 1e12:.3g} TFLOP/s ({peak['what']})"
    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in machine["versions"].items())
    before, after = document["load_before"], document["load_after"]
    load = f"load {before[0]} before, {after[0]} after" if before and after else "load unknown"
    return [
        *(f"- {line}" for line in chosen),
        "",
        f"Training in {settings['precision']} on {settings['images']:,} synthetic images in the "
        "memory of the device, 32x32 ones with random crops and flips; SGD with Nesterov momentum "
        f"0.9 and weight decay 1e-4. Ours: `make_loop` under a fixed mask of "
        f"{100 * settings['sparsity']:g} % sparsity. Dense: a loop by hand without mask, the "
        "learning rate a constant; the faster of the ways tried. PyTorch: the same network under "
        "`torch.nn.utils.prune` masks, eager, a Python loop over steps, the faster memory format; "
        f"{document['torch_settings']}. Ratios of images/s: medians of interleaved pairs, with "
        "distribution-free intervals (binomial, at least 95 %). A training step is taken as three "
        f"forward passes less the gradient by the images. Peak: {of_peak}.",
        f"A whole run: {EPOCHS} epochs, then {CYCLES} cycles of {RETRAINING_EPOCHS}; all else: "
        f"compilation, {EVALUATIONS} evaluations of 10,000 images, {CYCLES} prunes, "
        f"{CHECKPOINTS} checkpoints, each until it is on the disk.",
        f"XLA_FLAGS: {document['xla_flags'] or 'none'}. {machine['cpus']} × {machine['cpu']}, "
        f"device {machine['device']}; {load}. {versions}; Python {machine['python']}; commit "
        f"{machine['commit'] or 'unknown'}.",
    ]


def as_csv(rows: Sequence[Row]) -> str:
    """The rows without the times of single blocks, as CSV with a header."""
    names = [name for name in rows[0] if not name.endswith("_blocks")]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _ratio(row: Row, name: str) -> list[str]:
    if row[f"over_{name}"] is None:
        return ["–", ""]
    low, high = row[f"over_{name}_low"], row[f"over_{name}_high"]
    return [f"{row[f'over_{name}']:.3f}", f"{low:.3f}–{high:.3f}"]


def _count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"
