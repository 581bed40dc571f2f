"""Weights & Biases."""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any


class WandB:
    """Logs to the project of $WANDB_PROJECT, else "jaxprune"; files lie in the run folder.

    $WANDB_MODE=offline sends nothing.
    """

    def __init__(self, folder: pathlib.Path, config: dict[str, Any], first_step: int):
        import wandb  # pyright: ignore[reportMissingImports]

        # The same folder is the same run, also after it was killed.
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxprune"),
            name=folder.name,
            id=name,
            dir=str(folder),
            config=config,
            resume="allow" if first_step else None,
        )
        # Rows come in the order of the log, where a phase ends at a step that has passed.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step together."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()
