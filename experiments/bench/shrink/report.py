"""What the measurements of shrunk networks say: rows, targets, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import tables
from jaxprune.metrics import LatencyComparison

Row = dict[str, Any]

# What was aimed at: of the theoretical speedup, for ResNet-50 on a CPU.
NETWORK, FRACTIONS, AT_LEAST = "resnet50", (0.3, 0.5), 0.7
# More than theory promises says that the dense network runs below the machine's speed.
SLOW_BASELINE = 1.1


def row(
    network: str,
    what: str,
    fraction: float,
    *,
    weights: tuple[int, int],
    macs: tuple[int, int],
    largest_error: float,
    grouping_seconds: float,
    measured: LatencyComparison,
) -> Row:
    """One network at one fraction, as the JSON file holds it; pairs are (dense, small).

    Args:
      network: its name.
      what: its inputs.
      fraction: of the channels of every group, removed.
      weights: entries of all parameters.
      macs: multiply-accumulates of a call.
      largest_error: of small against masked results, over the largest result.
      grouping_seconds: for tracing and grouping the network.
      measured: the times.
    """
    theory = macs[0] / macs[1]
    of_theory = measured.speedup.median / theory
    return {
        "network": network,
        "inputs": what,
        "fraction": fraction,
        "dense_weights": weights[0],
        "small_weights": weights[1],
        "dense_macs": macs[0],
        "small_macs": macs[1],
        "theoretical_speedup": theory,
        "speedup": measured.speedup.median,
        "speedup_low": measured.speedup.low,
        "speedup_high": measured.speedup.high,
        "of_theory": of_theory,
        "dense_seconds": measured.dense.median_seconds,
        "small_seconds": measured.small.median_seconds,
        "dense_gmacs_per_second": macs[0] / measured.dense.median_seconds / 1e9,
        "small_gmacs_per_second": macs[1] / measured.small.median_seconds / 1e9,
        "dense_examples_per_second": measured.dense_examples_per_second,
        "small_examples_per_second": measured.small_examples_per_second,
        "repeats": measured.dense.repeats,
        "largest_error": largest_error,
        "grouping_seconds": grouping_seconds,
        "slow_dense_baseline": of_theory > SLOW_BASELINE,
    }


def targets(rows: Sequence[Row], *, backend: str) -> list[Row]:
    """What was aimed at on a CPU, what was measured, and whether it is met."""
    return [
        tables.target(
            f"{NETWORK}, {100 * r['fraction']:g} %: measured over theoretical speedup",
            r["of_theory"],
            AT_LEAST,
            at_least=True,
        )
        for r in rows
        if backend == "cpu" and r["network"] == NETWORK and r["fraction"] in FRACTIONS
    ]


def markdown(document: Mapping[str, Any]) -> list[str]:
    """The tables and what they were measured on, from the contents of the JSON file."""
    rows = document["results"]
    inputs = dict.fromkeys(f"{r['network']}: {r['inputs']}" for r in rows)
    grouping = {r["network"]: r["grouping_seconds"] for r in rows}
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in grouping.items())
    return [
        *tables.table(
            "network | > channels removed | > weights | > MACs | > theoretical speedup "
            "| > measured | > 95 % interval | > measured / theoretical | > ms | > examples/s "
            "| why far from theory",
            map(_cells, rows),
        ),
        *tables.targets(document["targets"]),
        "",
        f"Dense → small; inputs: {'; '.join(inputs)}; float32, inference. Tracing and grouping: "
        f"{seconds}. A ratio above {SLOW_BASELINE} of theory is flagged: there the dense network "
        "runs below the speed of the machine, which is no merit of the small one.",
        tables.machine(document),
    ]


def _cells(r: Row) -> list[str]:
    return [
        r["network"],
        f"{100 * r['fraction']:g} %",
        f"{r['small_weights']:,}",
        f"{r['small_macs']:,}",
        f"{r['theoretical_speedup']:.2f}",
        f"{r['speedup']:.2f}",
        f"{r['speedup_low']:.2f}–{r['speedup_high']:.2f}",
        f"{r['of_theory']:.2f}",
        f"{tables.ms(r['dense_seconds'])} → {tables.ms(r['small_seconds'])}",
        f"{r['dense_examples_per_second']:,.0f} → {r['small_examples_per_second']:,.0f}",
        note(r),
    ]


def note(row: Row) -> str:
    """Why a measured speedup is far from the theoretical one; "" where it is not."""
    rates = f"{row['dense_gmacs_per_second']:.0f} → {row['small_gmacs_per_second']:.0f} GMAC/s"
    if row["slow_dense_baseline"]:
        return f"slow dense baseline: {rates}"
    return f"narrow layers run slower: {rates}" if row["of_theory"] < AT_LEAST else ""
