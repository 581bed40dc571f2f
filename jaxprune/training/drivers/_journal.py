"""How a run goes from phase to phase, is saved on the way, and goes on where it was saved."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.training.checkpoints._checkpoints import Checkpoints, Preempted, Resumed
from jaxprune.training.checkpoints._records import PhaseRecord
from jaxprune.training.checkpoints._store import Store
from jaxprune.training.steps._loop import Metrics, TrainLoop
from jaxprune.training.steps._processes import Agreement
from jaxprune.training.steps._state import TrainState, copy

_REWINDS = 3


class Progress(NamedTuple):
    """Where a run stands.

    Attributes:
      state: the state.
      snapshot: what weight rewinding goes back to, if it is made already.
      records: the phases that are done.
      opening: what began the phase under way, in numbers, words and arrays; `None` if nothing has.
      steps: training steps done of it.
      metrics: their metrics.
      seconds: wall time spent on it in earlier processes.
    """

    state: TrainState
    snapshot: TrainState | None = None
    records: tuple[PhaseRecord, ...] = ()
    opening: dict[str, Any] | None = None
    steps: int = 0
    metrics: Metrics = {}  # noqa: RUF012 - never written to
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Training steps done of all phases. The state may count more: see `Checkpoints.on_nan`."""
        return sum(len(record.learning_rates) for record in self.records) + self.steps


class _Rewound(Exception):  # noqa: N818 - caught where phases are counted
    def __init__(self, progress: Progress):
        super().__init__()
        self.progress = progress


class Journal:
    """A run from phase to phase, with checkpoints or without."""

    def __init__(
        self,
        train: TrainLoop,
        checkpoints: Checkpoints | None,
        *,
        fingerprint: Callable[[], Mapping[str, Any]],
    ):
        """Takes the folder of the checkpoints.

        Args:
          train: the loop.
          checkpoints: where to save; nowhere if `None`.
          fingerprint: makes what must not change between a run and its continuation.

        Raises:
          As `Store`.
        """
        self._train, self._settings = train, checkpoints
        self._store = None if checkpoints is None else Store(checkpoints, fingerprint())
        self._began = time.perf_counter()
        self._rewinds = 0
        self._stopped = Agreement()

    def drive(
        self,
        progress: Progress,
        advance: Callable[[Progress], Progress],
        *,
        phases: int,
        on_phase: Callable[[PhaseRecord], None] | None,
        save_phase: Callable[[Progress], bool] = lambda progress: True,
    ) -> Progress:
        """Goes through the phases that are left.

        Args:
          progress: the start, used unless the run goes on from a checkpoint.
          advance: ``advance(progress)`` does one phase, with `train`, and adds its record.
          phases: how many there are.
          on_phase: called with every record.
          save_phase: whether to save after a phase.

        Returns:
          The end.

        Raises:
          Preempted: if the run was asked to end; it is saved.
          FloatingPointError: if the loss became NaN.
          OSError: if a checkpoint could not be written.
        """
        try:
            progress = self._placed(progress)
            if self._settings is not None and self._settings.resume:
                progress = self._restored(progress)
            while len(progress.records) < phases:
                try:
                    self._began = time.perf_counter()
                    progress = advance(progress)
                except _Rewound as back:
                    progress = back.progress
                    continue
                if on_phase is not None:
                    on_phase(progress.records[-1])
                if save_phase(progress):
                    self._save(progress)
            if self._store is not None:
                self._store.finish()
                self._store.mark_ended()
            return progress
        finally:
            if self._store is not None:
                self._store.close()

    def train(self, progress: Progress, rates: np.ndarray, *, until: int | None = None) -> Progress:
        """Trains the steps of a phase that are left.

        Args:
          progress: where the phase stands.
          rates: learning rates of the whole phase.
          until: steps after which to return; all if omitted.

        Returns:
          Where it stands then.
        """
        until = len(rates) if until is None else until
        while progress.steps < until:
            first, total = int(progress.state.step), progress.total
            steps = until - progress.steps
            if self._settings is not None:
                steps = min(steps, self._settings.every - total % self._settings.every)
            chosen = rates[progress.steps : progress.steps + steps]
            state, metrics = self._train(progress.state, chosen, stop=self._stop)
            done = len(next(iter(metrics.values()), ()))
            before = progress
            progress = progress._replace(
                state=state, steps=progress.steps + done, metrics=_joined(progress.metrics, metrics)
            )
            if done and np.isnan(loss := metrics["loss"]).any():
                self._on_nan(before, first, int(np.argmax(np.isnan(loss))), chosen)
            ended = progress.steps == len(rates)
            due = self._settings is not None and progress.total % self._settings.every == 0
            if done and (ended or due or done < steps) and not _is_finite(progress.state):
                # Saved, it would be what one goes back to.
                self._on_nan(before, first, done - 1, chosen)
            if done < steps:
                self._save(progress)
                raise self._preempted(progress)
            if due and not ended:
                self._save(progress)
        return progress

    def elapsed(self, progress: Progress) -> float:
        """Seconds of the phase under way, those of earlier processes included."""
        return progress.seconds + time.perf_counter() - self._began

    def _stop(self, steps: int) -> bool:
        del steps
        if self._settings is None or self._settings.stop is None:
            return False
        return self._stopped(self._settings.stop())

    def _save(self, progress: Progress) -> None:
        if self._store is None:
            return
        run = {
            "records": progress.records,
            "opening": progress.opening,
            "steps": progress.steps,
            "metrics": progress.metrics,
            "seconds": self.elapsed(progress) if progress.steps else 0.0,
            "total": progress.total,
        }
        trees: dict[str, PyTree] = {"state": progress.state}
        if progress.snapshot is not None:
            trees["snapshot"] = progress.snapshot
        self._store.save(progress.total, trees, run)

    def _placed(self, progress: Progress) -> Progress:
        """With the arrays on the devices of the step, where they are pruned and saved, too."""
        step = self._train.step
        if not step.traceable:
            return progress
        snapshot = None if progress.snapshot is None else step.place(copy(progress.snapshot))
        return progress._replace(state=step.place(progress.state), snapshot=snapshot)

    def _restored(self, like: Progress) -> Progress:
        assert self._store is not None
        assert self._settings is not None
        state = self._placed(Progress(like.state)).state
        trees, run = self._store.restore({"state": state, "snapshot": None})
        progress = Progress(
            state=trees["state"],
            snapshot=trees.get("snapshot"),
            records=run["records"],
            opening=run["opening"],
            steps=run["steps"],
            metrics=run["metrics"],
            seconds=run["seconds"],
        )
        if self._settings.on_resume is not None:
            self._settings.on_resume(Resumed(run["total"], progress.records, run["extra"]))
        return progress

    def _preempted(self, progress: Progress) -> Preempted:
        assert self._store is not None
        self._store.finish()
        return Preempted(
            f"asked to end after {progress.total} steps; saved in {self._store.folder}. Resume to "
            "go on.",
            progress.total,
        )

    def _on_nan(self, before: Progress, first: int, failed: int, rates: np.ndarray) -> None:
        """Goes back to the newest checkpoint, or raises."""
        phase = f"cycle {len(before.records)}" if before.records else "the first phase"
        message = (
            f"training diverged: the loss is NaN, or a weight NaN or infinite, at step "
            f"{before.total + failed} (step {before.steps + failed} of {phase}, learning rate "
            f"{rates[failed]:g}). Lower the learning rate, or warm it up."
        )
        settings, store = self._settings, self._store
        if store is None or settings is None or settings.on_nan == "stop":
            raise FloatingPointError(message)
        if self._rewinds == _REWINDS:
            raise FloatingPointError(f"{message} Went back {_REWINDS} times already.")
        self._rewinds += 1
        try:
            progress = self._restored(before)
        except FileNotFoundError as error:
            raise FloatingPointError(f"{message} There is no checkpoint to go back to.") from error
        # The same batches would end the same way: go on with those after the one that failed.
        after = jnp.full_like(progress.state.step, first + failed + 1)
        raise _Rewound(progress._replace(state=progress.state._replace(step=after)))


def _is_finite(state: TrainState) -> bool:
    try:
        _tree.check_finite(state.params)
    except ValueError:
        return False
    return True


def _joined(first: Metrics, second: Metrics) -> Metrics:
    if not first or not second:
        return first or second
    return {name: np.concatenate([x, second[name]]) for name, x in first.items()}
