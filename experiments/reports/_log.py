"""What happened in a run, in the order it happened; the pictures are drawn from it."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments.tasks import DEFAULT, KINDS, Kind


@dataclasses.dataclass
class Log:
    """Curves of a run, by training step.

    Attributes:
      steps: step of each training row.
      learning_rates: learning rate used at each.
      accuracies: the task's curve, such as accuracy, of the batch at each.
      validation: (step, the same of the validation set) at the end of every epoch.
      test: (step, the same of the test set) at the end of every phase.
      prunings: (step, sparsity, the same of the test set right after it) of every pruning.
      speeds: examples a second in training, by phase; `None` where too short to tell.
      kind: of the task.
      speedups: how much faster inference is than that of the dense network, by phase, if it was
        measured.
    """

    steps: list[int] = dataclasses.field(default_factory=list)
    learning_rates: list[float] = dataclasses.field(default_factory=list)
    accuracies: list[float] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    test: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    prunings: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)
    speeds: dict[str, float | None] = dataclasses.field(default_factory=dict)
    speedups: dict[str, float] = dataclasses.field(default_factory=dict)
    kind: Kind = KINDS[DEFAULT]

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Becomes what it was when the last of these rows of metrics.jsonl was written.

        Raises:
          ValueError: if a row lacks something, with its line; the log then stays as it is.
        """
        fresh = Log(kind=self.kind)
        for line, row in enumerate(rows, 1):
            try:
                fresh._add(row)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"line {line} of metrics.jsonl is no row of this program ({error!r}): {row}"
                ) from error
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(fresh, field.name))

    def _add(self, row: Mapping[str, Any]) -> None:
        curve = self.kind.curve.name
        if row["kind"] == "train":
            self.steps.append(row["step"])
            self.learning_rates.append(row["learning_rate"])
            self.accuracies.append(_number(row[curve]))
        elif row["kind"] == "validation":
            self.validation.append((row["step"], _number(row[f"validation_{curve}"])))
        elif row["kind"] == "phase":
            self.test.append((row["step"], _number(row[f"test_{curve}"])))
            if row[f"test_{curve}_pruned"] is not None:
                pruning = (row["first_step"], row["sparsity"], row[f"test_{curve}_pruned"])
                self.prunings.append(pruning)
            self.speeds[row["phase"]] = row[self.kind.speed]

    def add_chunk(self, first_step: int, rates: np.ndarray, accuracies: np.ndarray) -> None:
        """Adds the rows of some consecutive steps."""
        self.steps += range(first_step, first_step + len(rates))
        self.learning_rates += map(float, rates)
        self.accuracies += map(float, accuracies)


def _number(value: float | None) -> float:
    """A number of metrics.jsonl, where null is NaN."""
    return math.nan if value is None else value
