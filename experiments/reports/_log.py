"""What happened in a run, in the order it happened; the pictures are drawn from it."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass
class Log:
    """Curves of a run, by training step.

    Attributes:
      steps: step of each training row.
      learning_rates: learning rate used at each.
      accuracies: training accuracy of the batch at each.
      validation: (step, accuracy) at the end of every epoch.
      test: (step, accuracy) at the end of every phase.
      prunings: (step, sparsity, test accuracy right after it) of every pruning.
      speeds: images a second in training, by phase; `None` where too short to tell.
    """

    steps: list[int] = dataclasses.field(default_factory=list)
    learning_rates: list[float] = dataclasses.field(default_factory=list)
    accuracies: list[float] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    test: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    prunings: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)
    speeds: dict[str, float | None] = dataclasses.field(default_factory=dict)

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Becomes what it was when the last of these rows of metrics.jsonl was written."""
        fresh = Log()
        for row in rows:
            if row["kind"] == "train":
                fresh.steps.append(row["step"])
                fresh.learning_rates.append(row["learning_rate"])
                fresh.accuracies.append(_number(row["accuracy"]))
            elif row["kind"] == "validation":
                fresh.validation.append((row["step"], _number(row["validation_accuracy"])))
            elif row["kind"] == "phase":
                fresh.test.append((row["step"], _number(row["accuracy"])))
                if row["accuracy_pruned"] is not None:
                    pruning = (row["first_step"], row["sparsity"], row["accuracy_pruned"])
                    fresh.prunings.append(pruning)
                fresh.speeds[row["phase"]] = row["images_per_second"]
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(fresh, field.name))

    def add_chunk(self, first_step: int, rates: np.ndarray, accuracies: np.ndarray) -> None:
        """Adds the rows of some consecutive steps."""
        self.steps += range(first_step, first_step + len(rates))
        self.learning_rates += map(float, rates)
        self.accuracies += map(float, accuracies)


def _number(value: float | None) -> float:
    """A number of metrics.jsonl, where null is NaN."""
    return math.nan if value is None else value
