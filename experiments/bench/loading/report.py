"""The table of the input pipeline's speed."""

from typing import Any


def markdown(document: dict[str, Any]) -> str:
    """The table, with what its columns mean."""
    machine = document["machine"]
    lines = [
        f"Input pipeline on {machine['cpu']} ({machine['cpus']} CPUs), load before"
        f" {document['load_before']} and after {document['load_after']},"
        f" {document['finished']}, commit {machine['commit']}.",
        "",
        f"`{document['command']}`",
        "",
        "| images | preprocessing | workers | images/s | slowest-fastest | first batch (s) |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in document["results"]:
        workers = "this process" if row["workers"] is None else row["workers"]
        lines.append(
            f"| {row['what']} | {row['preprocess']} | {workers} | {row['median']:,.0f} |"
            f" {row['slowest']:,.0f}-{row['fastest']:,.0f} | {row['first_seconds']:.2f} |"
        )
    lines += [
        "",
        f"images/s: median of {document['settings']['repeats']} stretches of at least"
        f" {document['settings']['min_seconds']:g} s, read, decoded, preprocessed and batched, with"
        " nothing done to them. workers: processes; 0 is a thread of the process that takes the"
        " batches. first batch: from asking until it came, starting the processes included. JPEG"
        " rows: one photograph after another in one process, neither read nor"
        " batched. Trained: with steps of the network; the first ones include compilation.",
    ]
    return "\n".join(lines)
