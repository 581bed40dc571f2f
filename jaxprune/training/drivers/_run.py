"""A run in phases, which is saved on the way and goes on where it was saved."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._progress import Line, of_chunk
from jaxprune._tree import PyTree
from jaxprune.masks import PruneInfo
from jaxprune.training.checkpoints import Checkpoints, PhaseRecord, Preempted, Resumed
from jaxprune.training.checkpoints._records import Left
from jaxprune.training.checkpoints._store import Store
from jaxprune.training.steps import TrainLoop, TrainState, join_metrics
from jaxprune.training.steps._loop import Metrics
from jaxprune.training.steps._processes import Agreement
from jaxprune.training.steps._state import copy

Kept: TypeAlias = tuple[tuple[np.ndarray, ...], ...]

_RETURNS = 3  # times that a run goes back to a checkpoint after a loss of NaN


class PhaseStart(NamedTuple):
    """What is known of a phase before its training; see `PhaseRecord`.

    A checkpoint keeps it, so that a run that goes on does not prune a second time.
    """

    first_step: int
    info: PruneInfo | None = None
    pruned_fraction: float = 0.0
    discount: np.ndarray | None = None
    evaluation_pruned: dict[str, float] | None = None
    stability: float | None = None
    left: Left | None = None


class Run:
    """Where a run stands, with checkpoints or without.

    A recipe is a loop over phases. The same lines begin a run and go on with one: what is done
    already is in ``records``, ``start`` and ``snapshot``::

        with Run(train, checkpoints, state, fingerprint=...) as run:
            while len(run.records) < phases:
                if run.start is None:
                    run.begin(...)  # prune, for example
                if run.train(rates):
                    run.end(...)

    Attributes:
      state: the state now.
      snapshot: what weight rewinding goes back to, if there is one yet; set it before the run or
        on the way.
      records: the phases that are done.
      start: what began the phase under way; `None` if nothing has.
      kept: which channels stay after each prune that was done, by `structured_imp`.
      loop: the training loop. It changes with the shapes of the state.
    """

    def __init__(
        self,
        train: TrainLoop,
        checkpoints: Checkpoints | None,
        state: TrainState,
        *,
        fingerprint: Callable[[], Mapping[str, Any]],
        on_phase: Callable[[PhaseRecord], None] | None = None,
        like: Callable[[Kept], dict[str, PyTree]] | None = None,
        progress: int | None = None,
        first_phase: str = "dense",
    ):
        """Takes the folder of the checkpoints.

        Args:
          train: the loop.
          checkpoints: where to save; nowhere if `None`.
          state: where the run starts, unless it goes on from a checkpoint. Its own: donated.
          fingerprint: makes what must not change between a run and its continuation.
          on_phase: called with the record of every phase that ends.
          like: makes the trees that a checkpoint is read into, of what it says of ``kept``; as the
            present state if omitted.
          progress: how many steps all phases have, to tell how far the run is; `None` is silent.
          first_phase: the name of the first phase, in that line.

        Raises:
          As `Store`.
        """
        self.state = state
        self.snapshot: TrainState | None = None
        self.records: tuple[PhaseRecord, ...] = ()
        self.start: PhaseStart | None = None
        self.kept: Kept = ()
        self.loop, self._like = train, like
        self._on_phase, self._settings = on_phase, checkpoints
        self._steps, self._metrics = 0, Metrics()
        self._began, self._seconds = time.perf_counter(), 0.0  # of earlier processes
        self._returns, self._training = 0, False
        self._asked_to_stop = Agreement()
        self._line = None if progress is None or jax.process_index() else Line(progress)
        self._first_phase = first_phase
        self._store = None if checkpoints is None else Store(checkpoints, fingerprint())

    def __enter__(self) -> Run:
        """Puts the state where the step wants it, or reads the newest checkpoint.

        Raises:
          As `Store.restore`.
        """
        try:
            self._place()
            if self._settings is not None and self._settings.resume:
                self._restore()
            if self._line is not None:
                self._line.start(self._total)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for the last checkpoint; notes that the run has ended, if it has.

        What was trained is saved if an evaluation or another function of the user's fails after it.
        """
        try:
            failed = isinstance(error, Exception)
            failed = failed and not isinstance(error, (FloatingPointError, Preempted))
            if failed and self._store is not None and not self._training and self._steps:
                with contextlib.suppress(OSError):  # the first error is the one to see
                    self._save()
                    self._store.finish()
            if self._store is not None and kind is None:
                self._store.finish()
                self._store.mark_ended()
            if self._line is not None and kind is None:
                self._line.end(_in_short(self.records[-1]))
        finally:
            self._close()

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._store is not None:
            self._store.close()

    def begin(self, state: TrainState | None = None, **known: Any) -> PhaseStart:
        """Begins a phase.

        Args:
          state: the state to train, the present one if omitted.
          **known: fields of `PhaseStart`.

        Returns:
          The new ``start``.
        """
        self.state = self.state if state is None else state
        self.start = PhaseStart(int(self.state.step), **known)
        if self._line is not None:
            self._line.show(self._phase, self._total)
        return self.start

    def train(self, rates: np.ndarray, *, until: int | None = None) -> bool:
        """Trains the steps that are left of a phase, and saves on the way.

        Args:
          rates: learning rates of the whole phase, float32 ``[steps]``.
          until: the step of the phase to stop at; the last if omitted.

        Returns:
          Whether it got there. If not, the loss was NaN and the run has gone back to a checkpoint,
          maybe of an earlier phase.

        Raises:
          Preempted: if the run was asked to end; it is saved.
          FloatingPointError: if the loss is NaN and the run is not to go back, or cannot.
          OSError: if a checkpoint could not be written.
        """
        until = len(rates) if until is None else until
        every = None if self._settings is None else self._settings.every
        while self._steps < until:
            before, first = self._steps, int(self.state.step)
            asked = until - before
            if every is not None:  # up to the next checkpoint
                asked = min(asked, every - self._total % every)
            chosen = rates[before : before + asked]
            self._training = True
            self.state, metrics = self._told(first)(self.state, chosen, stop=self._stop)
            self._training = False
            done = len(next(iter(metrics.values()), ()))
            self._steps = before + done
            self._metrics = join_metrics([self._metrics, metrics])
            failed = None
            if done and np.isnan(metrics["loss"]).any():
                failed = int(np.argmax(np.isnan(metrics["loss"])))
            ended = self._steps == len(rates)
            due = every is not None and self._total % every == 0
            if failed is None and done and (ended or due or done < asked) and not self._is_finite():
                failed = done - 1  # saved, it would be what one goes back to
            if failed is not None:
                self._go_back(before, first, failed, chosen)
                return False
            if done < asked:
                self._save()
                raise self._preempted()
            if due and not ended:
                self._save()
        return True

    def end(
        self,
        phase: str,
        cycle: int,
        learning_rates: np.ndarray,
        evaluation: dict[str, float],
        *,
        kept: int,
        prunable: int,
        save: bool = True,
    ) -> None:
        """Ends a phase: adds its record, reports it, and saves.

        Args:
          phase: its name.
          cycle: its number, 0 for the dense one.
          learning_rates: the rates that were used.
          evaluation: metrics at its end.
          kept: weights that are not pruned.
          prunable: all prunable weights.
          save: whether to make a checkpoint.
        """
        assert self.start is not None
        discount = self.start.discount
        record = PhaseRecord(
            phase=phase,
            cycle=cycle,
            sparsity=(prunable - kept) / prunable,
            nonzero=kept,
            prunable=prunable,
            evaluation_pruned=self.start.evaluation_pruned,
            evaluation=evaluation,
            discount=None if discount is None else float(discount),
            stability=self.start.stability,
            pruned_fraction=self.start.pruned_fraction,
            first_step=self.start.first_step,
            learning_rates=learning_rates,
            metrics=self._metrics,
            info=self.start.info,
            seconds=self._elapsed(),
            left=self.start.left,
        )
        self.records, self.start = (*self.records, record), None
        self._steps, self._metrics, self._seconds = 0, Metrics(), 0.0
        if self._on_phase is not None:
            self._on_phase(record)
        if save:
            self._save()
        self._began = time.perf_counter()

    @property
    def _phase(self) -> str:
        """The name of the phase under way, in the line of progress."""
        return f"cycle {len(self.records)}" if self.records else self._first_phase

    def _told(self, first: int) -> TrainLoop:
        """The loop, which tells the line of progress of every chunk from step ``first`` on."""
        line, own, done = self._line, self.loop.on_chunk, self._total
        if line is None:
            return self.loop

        def on_chunk(start: int, rates: np.ndarray, metrics: Metrics) -> None:
            line.show(self._phase, done + start - first + len(rates), of_chunk(rates, metrics))
            if own is not None:
                own(start, rates, metrics)

        return self.loop._replace(on_chunk=on_chunk)

    @property
    def _total(self) -> int:
        """Training steps done of all phases. The state may count more: see `Checkpoints.on_nan`."""
        return sum(len(record.learning_rates) for record in self.records) + self._steps

    def _elapsed(self) -> float:
        """Seconds of the phase under way, those of earlier processes included."""
        return self._seconds + time.perf_counter() - self._began

    def _stop(self, steps: int) -> bool:
        del steps
        if self._settings is None or self._settings.stop is None:
            return False
        return self._asked_to_stop(self._settings.stop())

    def _is_finite(self) -> bool:
        try:
            _tree.check_finite(self.state.params)
        except ValueError:
            return False
        return True

    def _save(self) -> None:
        if self._store is None:
            return
        run = {
            "records": self.records,
            "opening": None if self.start is None else self.start._asdict(),
            "steps": self._steps,
            "metrics": self._metrics,
            "seconds": self._elapsed() if self._steps else 0.0,
            "total": self._total,
        }
        if self.kept:
            run["kept"] = self.kept
        trees: dict[str, PyTree] = {"state": self.state}
        if self.snapshot is not None:
            trees["snapshot"] = self.snapshot
        self._store.save(self._total, trees, run)

    def _place(self) -> None:
        """Puts the arrays on the devices of the step, where they are pruned and saved, too."""
        step = self.loop.step
        if step.traceable:
            self.state = step.place(self.state)
            self.snapshot = None if self.snapshot is None else step.place(copy(self.snapshot))

    def _restore(self) -> None:
        """Goes on from the newest checkpoint that is whole."""
        assert self._store is not None
        assert self._settings is not None
        self._place()
        trees, run = self._store.restore(self._shapes)
        self.state, self.snapshot = trees["state"], trees.get("snapshot")
        self.records, self.kept = run["records"], run.get("kept", ())
        self.start = None if run["opening"] is None else PhaseStart(**run["opening"])
        self._steps, self._metrics, self._seconds = run["steps"], run["metrics"], run["seconds"]
        self._began = time.perf_counter()
        if self._settings.on_resume is not None:
            self._settings.on_resume(Resumed(run["total"], self.records, run["extra"]))

    def _shapes(self, run: dict[str, Any]) -> dict[str, PyTree]:
        """What the trees of a checkpoint look like."""
        if self._like is not None:
            return self._like(run.get("kept", ()))
        return {"state": self.state, "snapshot": self.state}

    def _preempted(self) -> Preempted:
        assert self._store is not None
        self._store.finish()
        return Preempted(
            f"asked to end after {self._total} steps; saved in {self._store.folder}. Resume to go "
            "on.",
            self._total,
        )

    def _go_back(self, before: int, first: int, failed: int, rates: np.ndarray) -> None:
        """Goes back to the newest checkpoint, or raises."""
        phase = f"cycle {len(self.records)}" if self.records else "the first phase"
        at = self._total - self._steps + before + failed
        message = (
            f"training diverged: the loss is NaN, or a weight NaN or infinite, at step {at} (step "
            f"{before + failed} of {phase}, learning rate {rates[failed]:g}). Lower the learning "
            "rate, or warm it up."
        )
        settings = self._settings
        if self._store is None or settings is None or settings.on_nan == "stop":
            raise FloatingPointError(message)
        if self._returns == _RETURNS:
            raise FloatingPointError(f"{message} Went back {_RETURNS} times already.")
        self._returns += 1
        try:
            self._restore()
        except FileNotFoundError as error:
            raise FloatingPointError(f"{message} There is no checkpoint to go back to.") from error
        # The same batches would end the same way: go on with those after the one that failed.
        after = jnp.full_like(self.state.step, first + failed + 1)
        self.state = self.state._replace(step=after)


def _in_short(record: PhaseRecord) -> str:
    """How a run ended, in a few words."""
    numbers = (f"{name} {value:.4g}" for name, value in record.evaluation.items())
    return "  ".join([f"{100 * record.sparsity:.4g} % sparse", *numbers])
