"""Users' functions that a recipe calls between its phases: checked before any training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprune import metrics
from jaxprune.training.steps import TrainState
from jaxprune.training.steps._contracts import check_alike, check_calls
from jaxprune.training.steps._evaluate import metric_names


def check_hooks(
    evaluate: Any, state: TrainState, metric: str | None, *, recalibrate: Any, on_phase: Any
) -> None:
    """Raises if a function cannot be called as the recipe will do, hours later.

    An evaluation of `make_evaluate` is traced, any other is called once.

    Raises:
      TypeError: if one is no such function, or ``evaluate`` does not return numbers by name.
      ValueError: if ``evaluate`` has no such metric.
    """
    check_calls("recalibrate", recalibrate, ["state"])
    check_calls("on_phase", on_phase, ["record"])
    if evaluate is None:
        raise TypeError("evaluate is a function of the state, see make_evaluate; got None.")
    known = metric_names(evaluate, state)
    if metric is not None and metric not in known:
        raise ValueError(f"evaluate has no metric {metric!r}; it returns {sorted(known)}.")


def recalibrated(recalibrate: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
    """The state with its statistics estimated anew.

    Raises:
      TypeError: if the function returns no state, or one of another network.
    """
    after = recalibrate(state)
    if not isinstance(after, TrainState):
        raise TypeError(
            f"recalibrate(state) returns a TrainState; got {type(after).__name__}. See "
            "make_recalibrate."
        )
    check_alike(state.params, after.params, what="parameters", source="recalibrate")
    check_alike(state.model_state, after.model_state, what="model state", source="recalibrate")
    return after


def stability(metric: str, pruned: dict[str, float], before: dict[str, float]) -> float | None:
    """The pruning stability of a metric; `None` unless positive numbers stand on both sides."""
    after, reference = pruned.get(metric), before.get(metric)
    if after is None or reference is None or not (after >= 0 and reference > 0):
        return None
    return metrics.pruning_stability(after, reference)
