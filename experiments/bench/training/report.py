"""What the measurements of training loops say: rows, targets, and the tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import tables
from experiments.bench.common.pairs import Pairs
from experiments.bench.training import whole_run
from experiments.bench.training.peaks import Peak

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
    pairs: Mapping[str, Pairs],
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
        base = other = ratio = None
        if both is not None:
            base, other = (statistics.median(side) / steps for side in both)
            ratio, out["pairs"] = both.ratio, len(both.base)
        ours = base if ours is None else ours
        out |= {
            f"ours_beside_{name}_images_per_second": base and batch / base,
            f"{name}_images_per_second": other and batch / other,
            f"over_{name}": ratio and ratio.median,
            f"over_{name}_low": ratio and ratio.low,
            f"over_{name}_high": ratio and ratio.high,
            f"{name}_blocks": both and list(zip(both.base, both.other, strict=True)),
        }
    rate = None if ours is None else flops / ours
    return out | {
        "ours_seconds": ours,
        "step_flops": flops,
        "flops_per_second": rate,
        "of_peak_flops": None if rate is None or peak is None else rate / peak.flops_per_second,
    }


def targets(rows: Sequence[Row], runs: Sequence[Row], *, backend: str) -> list[Row]:
    """What was aimed at, what was measured, and whether it is met by the median."""
    out = []
    for r in rows:
        wanted = [("images/s over the dense loop", DENSE, OVER_DENSE)]
        if backend in ("gpu", "cuda") and (r["model"], r["batch"]) == _TORCH_CASE:
            wanted.append(("images/s over PyTorch", TORCH, OVER_TORCH))
        for what, name, limit in wanted:
            low, measured, high = (r[f"over_{name}{end}"] for end in ("_low", "", "_high"))
            out.append(
                tables.target(
                    f"{r['model']}, batch {r['batch']}: {what}",
                    measured,
                    limit,
                    at_least=True,
                    interval=None if measured is None else (low, high),
                )
            )
    for r in runs:
        what = f"{r['model']}, batch {r['batch']}: all else over the steps of {r['epochs']} epochs"
        out.append(tables.target(what, r["overhead_fraction"], MOST_OVERHEAD))
    return out


def markdown(document: Mapping[str, Any]) -> list[str]:
    """The tables and what they were measured on, from the contents of the JSON file."""
    lines = tables.table(
        "model | > batch | > ours images/s | > dense | > ours / dense | > 95 % interval "
        "| > ours images/s | > PyTorch | > ours / PyTorch | > 95 % interval "
        "| > ms a step | > TFLOP/s | > of peak",
        map(_cells, document["results"]),
    )
    if document["runs"]:
        head = (
            f"whole run | > batch | > steps of {whole_run.ALL_EPOCHS} epochs s | > once s "
            "| > a prune s | > an evaluation s | > a validation s | > a checkpoint s "
            "| > all else / steps"
        )
        lines += ["", *tables.table(head, map(_run_cells, document["runs"]))]
    return [*lines, *tables.targets(document["targets"]), "", *_words(document)]


def _cells(r: Row) -> list[str]:
    if r["not_measured"]:
        return [r["model"], str(r["batch"]), r["not_measured"]]
    share = r["of_peak_flops"]
    return [
        r["model"],
        str(r["batch"]),
        *_beside(r, DENSE),
        *_beside(r, TORCH),
        f"{1000 * r['ours_seconds']:.3g}",
        f"{r['flops_per_second'] / 1e12:.3g}",
        "–" if share is None else f"{100 * share:.3g} %",
    ]


def _beside(r: Row, name: str) -> list[str]:
    """Ours and another loop, their ratio and its interval."""
    if r[f"over_{name}"] is None:
        return ["–", r.get(f"{name}_not_measured") or "–", "–", ""]
    speeds = (r[f"ours_beside_{name}_images_per_second"], r[f"{name}_images_per_second"])
    return [
        *(f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}" for speed in speeds),
        f"{r[f'over_{name}']:.3f}",
        f"{r[f'over_{name}_low']:.3f}–{r[f'over_{name}_high']:.3f}",
    ]


def _run_cells(r: Row) -> list[str]:
    return [
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


def _words(document: Mapping[str, Any]) -> list[str]:
    """What the tables must be read with."""
    settings, peak, run = document["settings"], document["peak"], whole_run
    of_peak = "unknown for this device"
    if peak is not None:
        of_peak = f"{peak['flops_per_second'] / 1e12:.3g} TFLOP/s ({peak['what']})"
    return [
        *(
            f"- {r['model']}, batch {r['batch']}: {r['parameters']:,} parameters; dense loop "
            f"{r['dense_loop']}; PyTorch {r['torch_format'] or '–'}; {r['pairs']} pairs of "
            f"{r['block_steps']} step(s)."
            for r in document["results"]
            if not r["not_measured"]
        ),
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
        f"A whole run: {run.EPOCHS} epochs dense, then {run.CYCLES} cycles of "
        f"{run.RETRAINING_EPOCHS} epochs of retraining. Its seconds are the measured ms a step "
        f"times the steps of all {run.ALL_EPOCHS} epochs, and all else: once compilation and the "
        f"like, {run.EVALUATIONS} evaluations of {run.TEST_IMAGES:,} images, a validation on "
        f"{run.VALIDATION_IMAGES:,} after each epoch, {run.CYCLES} prunes, {run.CHECKPOINTS} "
        "checkpoints, each until it is on the disk.",
        f"XLA_FLAGS: {document['xla_flags'] or 'none'}. {tables.machine(document)}",
    ]
