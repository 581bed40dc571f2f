"""What happened in a run, phase by phase, and how it is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import _html
from jaxprune.masks import PruneInfo
from jaxprune.training.steps._state import TrainState


class Left(NamedTuple):
    """What is left of a network that lost channels; see `jaxprune.training.structured_imp`.

    Attributes:
      channels: how many of all groups.
      parameters: entries of the parameters.
      macs: multiply-accumulates of one call with the example inputs; `None` where they cannot be
        counted, for the reason in ``notes``.
      widths: how many channels each kernel makes, by path.
      notes: what the selection had to say.
    """

    channels: int
    parameters: int
    macs: int | None
    widths: dict[str, int]
    notes: tuple[str, ...] = ()


class PhaseRecord(NamedTuple):
    """What one phase did: the dense phase (cycle 0), or one prune and its retraining.

    Attributes:
      phase: "dense", "cycle 1", ...; of `fit` "training" and "final prune".
      cycle: 0 for the first phase, then 1, 2, ...
      sparsity: fraction removed of the prunable weights, from exact counts.
      nonzero: prunable weights kept.
      prunable: all prunable weights.
      evaluation_pruned: `evaluate` right after pruning (and recalibration); `None` if dense.
      evaluation: `evaluate` at the end of the phase.
      discount: d of ALLR, `None` under another schedule.
      stability: pruning stability of the chosen metric, `None` if dense or not measured.
      pruned_fraction: fraction of the weights still there that this cycle removed.
      first_step: the step counter at the start of the phase's training.
      learning_rates: float32 ``[steps]``, the rates used.
      metrics: what the training steps reported, float arrays ``[steps]``.
      info: counts of the prune, leaf by leaf; `None` if dense.
      seconds: wall time of the phase.
      left: what is left of the network after its channels went; `None` if none go.
    """

    phase: str
    cycle: int
    sparsity: float
    nonzero: int
    prunable: int
    evaluation_pruned: dict[str, float] | None
    evaluation: dict[str, float]
    discount: float | None
    stability: float | None
    pruned_fraction: float
    first_step: int
    learning_rates: np.ndarray
    metrics: dict[str, np.ndarray]
    info: PruneInfo | None
    seconds: float
    left: Left | None = None

    def to_dict(self) -> dict[str, Any]:
        """The numbers of this phase under flat names, as a row of a table.

        Evaluations have the names of their metrics; right after the prune, with ``_pruned`` behind.
        Arrays are left out, except for what is said of them: steps, first and last learning rate.

        Returns:
          Words, numbers and `None`, by name.
        """
        rates = self.learning_rates
        row: dict[str, Any] = {
            "phase": self.phase,
            "cycle": self.cycle,
            "sparsity": self.sparsity,
            "nonzero": self.nonzero,
            "prunable": self.prunable,
            **self.evaluation,
            **{f"{name}_pruned": value for name, value in (self.evaluation_pruned or {}).items()},
            "discount": self.discount,
            "stability": self.stability,
            "pruned_fraction": self.pruned_fraction,
            "steps": len(rates),
            "highest_learning_rate": float(rates.max()) if len(rates) else None,
            "last_learning_rate": float(rates[-1]) if len(rates) else None,
            "seconds": self.seconds,
        }
        if self.left is not None:
            row |= {name: getattr(self.left, name) for name in ("channels", "parameters", "macs")}
        return row

    def __repr__(self) -> str:
        parts = [f"{100 * self.sparsity:.4g} % sparse"]
        for name, value in self.evaluation.items():
            before = (self.evaluation_pruned or {}).get(name)
            parts.append(f"{name} {value:.4g}")
            if before is not None and len(self.learning_rates):
                parts[-1] += f" (right after the prune {before:.4g})"
        if self.discount is not None:
            parts.append(f"discount {self.discount:.3g}")
        parts.append(f"{len(self.learning_rates):,} steps in {self.seconds:.1f} s")
        return f"<{self.phase}: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        return html_of((self,))


class RunResult(NamedTuple):
    """The end of a run: the final state, and a record of every phase in order.

    It prints as a line a phase, and a notebook shows a table.
    """

    state: TrainState
    records: tuple[PhaseRecord, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row a phase, for ``pandas.DataFrame``, ``polars.DataFrame`` or `csv.DictWriter`.

        Returns:
          The rows, all with the same names: `None` where a phase has no such number.
        """
        return rows_of(self.records)

    def __repr__(self) -> str:
        return repr_of("RunResult", self.records)

    def _repr_html_(self) -> str:
        return html_of(self.records)


def rows_of(records: Sequence[PhaseRecord]) -> list[dict[str, Any]]:
    """A row a phase; all have the same names."""
    rows = [record.to_dict() for record in records]
    # In the order of the longest: the dense phase knows nothing of "accuracy_pruned".
    names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def repr_of(name: str, records: Sequence[PhaseRecord]) -> str:
    """A line a phase."""
    return "\n  ".join([f"<{name} of {len(records)} phases:", *map(repr, records)]) + ">"


def html_of(records: Sequence[PhaseRecord]) -> str:
    """A table for notebooks: a row a phase, with a bar of its sparsity."""
    measures = dict.fromkeys(name for record in records for name in record.evaluation)
    pruned = dict.fromkeys(name for record in records for name in record.evaluation_pruned or {})
    header = ["phase", "steps", "seconds", "discount"]
    header += [f"{name} right after the prune" for name in pruned]
    header += [*measures, "sparsity"]
    rows = []
    for record in records:
        row = [record.phase, f"{len(record.learning_rates):,}", f"{record.seconds:.1f}"]
        row.append(_number(record.discount))
        row += [_number((record.evaluation_pruned or {}).get(name)) for name in pruned]
        row += [_number(record.evaluation.get(name)) for name in measures]
        rows.append([*row, f"{100 * record.sparsity:.2f} %"])
    return _html.table(header, rows, bars=[record.sparsity for record in records])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def to_json(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """A value as JSON can hold it; its arrays are collected separately.

    Args:
      value: numbers, words, dictionaries, sequences, arrays, `PhaseRecord`, `PruneInfo`,
        `Left`.
      arrays: gets the arrays, by names that begin with ``name``.
      name: of the value.

    Returns:
      What `from_json` makes the value of again.
    """
    if isinstance(value, (np.ndarray, jax.Array)):
        arrays[name] = np.asarray(value)
        return {"array": name, "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, PruneInfo):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"PruneInfo": to_json(fields, arrays, name)}
    if isinstance(value, PhaseRecord):
        return {"PhaseRecord": to_json(value._asdict(), arrays, name)}
    if isinstance(value, Left):
        return {"Left": to_json(value._asdict(), arrays, name)}
    if isinstance(value, dict):
        return {"dict": {k: to_json(v, arrays, f"{name}/{k}") for k, v in value.items()}}
    if isinstance(value, (tuple, list)):
        return [to_json(v, arrays, f"{name}/{i}") for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    return value


def from_json(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value that `to_json` was given; sequences become tuples."""
    if isinstance(value, list):
        return tuple(from_json(v, arrays) for v in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        stored = arrays.get(value["array"])
        if stored is None:  # empty arrays are not stored
            if 0 not in value["shape"]:
                raise ValueError(f"its array {value['array']!r} is missing")
            stored = np.zeros(value["shape"], value["dtype"])
        return stored
    if "PruneInfo" in value:
        return PruneInfo(**from_json(value["PruneInfo"], arrays))
    if "PhaseRecord" in value:
        return PhaseRecord(**from_json(value["PhaseRecord"], arrays))
    if "Left" in value:
        return Left(**from_json(value["Left"], arrays))
    return {k: from_json(v, arrays) for k, v in value["dict"].items()}
