"""The table of the input pipeline's speed."""

from typing import Any

from experiments.bench.common import tables


def markdown(document: dict[str, Any]) -> list[str]:
    """The table, with what its columns mean."""
    settings = document["settings"]
    rows = [
        [
            r["what"],
            r["preprocess"],
            "this process" if r["workers"] is None else r["workers"],
            f"{r['median']:,.0f}",
            f"{r['slowest']:,.0f}-{r['fastest']:,.0f}",
            f"{r['first_seconds']:.2f}",
        ]
        for r in document["results"]
    ]
    return [
        *tables.table(
            "images | preprocessing | > workers | > images/s | > slowest-fastest "
            "| > first batch (s)",
            rows,
        ),
        "",
        f"images/s: median of {settings['repeats']} stretches of at least "
        f"{settings['min_seconds']:g} s, read, decoded, preprocessed and batched, with nothing "
        "done to them. workers: processes; 0 is a thread of the process that takes the batches. "
        "first batch: from asking until it came, starting the processes included. JPEG rows: one "
        "photograph after another in one process, neither read nor batched. Trained: with steps of "
        "the network; the first ones include compilation.",
        f"`{document['command']}`",
        tables.machine(document),
    ]
