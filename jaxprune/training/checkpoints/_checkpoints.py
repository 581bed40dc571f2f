"""Checkpoints of a run: where, how often, and whether to go on with them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from jaxprune._checks import check_steps
from jaxprune.training.checkpoints._records import PhaseRecord


class Resumed(NamedTuple):
    """Where a run goes on.

    Attributes:
      steps: training steps that are done, of all phases.
      records: the phases that are done.
      extra: what ``extra()`` gave when the checkpoint was made.
    """

    steps: int
    records: tuple[PhaseRecord, ...]
    extra: Any


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where and how often `imp`, `bimp` and `fit` save a run, and whether they go on with one.

    A checkpoint holds parameters, model state, optimizer state, the mask (in bits), the snapshot
    for weight rewinding, the key, where in the run it is, and all metrics so far. It is written by
    Orbax: in the background, whole or not at all, each process its shards. A run that goes on from
    one on the same devices ends with the same bits as one that never stopped; on other devices
    arrays are spread anew. One run at a time uses a folder.

    Attributes:
      folder: where checkpoints lie, one folder each, named by the training steps done.
      every: training steps between two; they are also made at the end of every phase.
      keep: how many of the newest are kept.
      resume: whether to go on from the newest complete one. If it is damaged, the one before it is
        used, with a warning.
      settings: what must not change between a run and its continuation, numbers and words by name.
        The arguments of the recipe, shapes and learning rates are compared anyway. Momentum, weight
        decay and batch size cannot be detected; list them here.
      extra: called at every checkpoint; what it returns, numbers and words, is kept in it.
      on_resume: called with where the run goes on, before anything is trained.
      stop: asked between chunks of steps whether to end here, e.g. because the machine is to be
        taken away; then a checkpoint is made and `Preempted` raised. Of several processes one is
        enough; all end, a chunk later.
      on_nan: what to do when the loss is NaN, or a weight NaN or infinite where it is to be saved:
        "stop" with an error that names the step, or "rewind" to the newest checkpoint and go on
        with the batches after the step that failed, three times at most. The step counter of the
        state then skips the steps between.
    """

    folder: str | os.PathLike[str]
    every: int = 1000
    keep: int = 2
    resume: bool = False
    settings: Mapping[str, Any] | None = None
    extra: Callable[[], Any] | None = None
    on_resume: Callable[[Resumed], None] | None = None
    stop: Callable[[], bool] | None = None
    on_nan: Literal["stop", "rewind"] = "stop"

    def __post_init__(self) -> None:
        """Refuses numbers out of range."""
        check_steps("every", self.every)
        check_steps("keep", self.keep)
        if "://" in os.fspath(self.folder):
            raise ValueError(
                f"folder is one of a file system that all processes see; got {self.folder!r}. "
                "Mount the bucket."
            )
        if self.on_nan not in ("stop", "rewind"):
            raise ValueError(f"on_nan is 'stop' or 'rewind'; got {self.on_nan!r}.")
        for name, value in (self.settings or {}).items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"settings are finite numbers and words, or lists and dicts of them; "
                    f"{name!r} is {value!r}."
                ) from error

    def steps(self) -> list[int]:
        """The training steps after which there is a complete checkpoint, rising."""
        folder = pathlib.Path(self.folder)
        if not folder.is_dir():
            return []
        return sorted(orbax().utils.checkpoint_steps(folder.absolute()))


class Preempted(Exception):  # noqa: N818 - nothing failed
    """A run was asked to end and has saved itself; the message says where.

    Attributes:
      steps: training steps done.
    """

    def __init__(self, message: str, steps: int):
        super().__init__(message)
        self.steps = steps


def orbax() -> Any:
    """Orbax, imported where it is needed."""
    import orbax.checkpoint as ocp  # half a second: only for those who save

    return ocp
