"""What the measurements of training loops say: rows, targets, and the tables."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import pairs as _pairs
from experiments.bench.training.peaks import Peak
from experiments.bench.training.whole_run import (
    ALL_EPOCHS,
    CHECKPOINTS,
    CYCLES,
    EPOCHS,
    EVALUATIONS,
    RETRAINING_EPOCHS,
    TEST_IMAGES,
    VALIDATION_IMAGES,
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
    out: Row = {"model": model, "batch": batch, **facts, "pairs": None, "block_steps": steps}
    ours = None  # of the first pairs; beside each other loop stands ours of the pairs with it
    for name in (DENSE, TORCH):
        both = pairs.get(name)
        base = None if both is None else statistics.median(both.base) / steps
        other = None if both is None else statistics.median(both.other) / steps
        ours = base if ours is None else ours
        ratio = None if both is None else both.ratio
        out |= {
            f"ours_beside_{name}_images_per_second": base and batch / base,
            f"{name}_images_per_second": other and batch / other,
            f"over_{name}": ratio and ratio.median,
            f"over_{name}_low": ratio and ratio.low,
            f"over_{name}_high": ratio and ratio.high,
            f"{name}_blocks": both and list(zip(both.base, both.other, strict=True)),
        }
        out["pairs"] = len(both.base) if both else out["pairs"]
    rate = None if ours is None else flops / ours
    return out | {
        "ours_seconds": ours,
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
                "target": f"{r['model']}, batch {r['batch']}: all else over the steps of "
                f"{r['epochs']} epochs, below",
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
        "| model | batch | ours images/s | dense | ours / dense | 95 % interval "
        "| ours images/s | PyTorch | ours / PyTorch | 95 % interval "
        "| ms a step | TFLOP/s | of peak |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in document["results"]:
        cells = [r["model"], str(r["batch"])]
        if r["not_measured"]:
            cells += [r["not_measured"], *[""] * 10]
        else:
            torch = _count(r["torch_images_per_second"])
            cells += [
                _count(r["ours_beside_dense_images_per_second"]),
                _count(r["dense_images_per_second"]),
                *_ratio(r, DENSE),
                _count(r["ours_beside_torch_images_per_second"]),
                r["torch_not_measured"] or torch,
                *_ratio(r, TORCH),
                f"{1000 * r['ours_seconds']:.3g}",
                f"{r['flops_per_second'] / 1e12:.3g}",
                _percent(r["of_peak_flops"]),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    if document["runs"]:
        lines += [
            "",
            f"| whole run | batch | steps of {ALL_EPOCHS} epochs s | once s | a prune s "
            "| an evaluation s | a validation s | a checkpoint s | all else / steps |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
    for r in document["runs"]:
        cells = [
            r["model"],
            str(r["batch"]),
            f"{r['train_seconds']:,.0f}",
            f"{r['once_seconds']:.1f}",
            f"{r['prune_seconds']:.3f}",
            f"{r['evaluate_seconds']:.2f}",
            f"{r['validate_seconds']:.2f}",
            f"{r['checkpoint_seconds']:.2f}",
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
        "distribution-free intervals (binomial, at least 95 %); images/s: medians of the same "
        "pairs, so ours stands twice. A training step is taken as three "
        f"forward passes less the gradient by the images. Peak: {of_peak}.",
        f"A whole run: {EPOCHS} epochs dense, then {CYCLES} cycles of {RETRAINING_EPOCHS} epochs "
        "of retraining. Its seconds are the measured ms a step times the steps of all "
        f"{ALL_EPOCHS} epochs, and all else: once compilation and the like, {EVALUATIONS} "
        f"evaluations of {TEST_IMAGES:,} images, a validation on {VALIDATION_IMAGES:,} after each "
        f"epoch, {CYCLES} prunes, {CHECKPOINTS} checkpoints, each until it is on the disk.",
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
