"""One run: train, prune and retrain one network, and write its folder."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from rich.console import Console

import jaxprune as jp
from experiments import caches, channels, devices, reports
from experiments.checks import check_run_dir, fixed_sparsity
from experiments.config import ITERATIVE, UNCONTROLLED, Config, compared, compared_data
from experiments.setup import Dense, Setup, build, prune_and_retrain, prune_channels
from jaxprune.training import PhaseRecord, Resumed, RunResult, TrainState, join_metrics

_TIMED = 32  # images of the speed that is measured at the end of a structured run

Stop: TypeAlias = Callable[[int], bool]


def run(
    config: Config,
    *,
    console: Console | None = None,
    parts: Setup | None = None,
    stop: Callable[[], bool] | None = None,
    started: float | None = None,
    dense: Dense | None = None,
) -> RunResult:
    """Trains and prunes as configured, and writes the run folder.

    Args:
      config: the configuration.
      console: where progress and table go; standard output if omitted.
      parts: from `experiments.setup.build`, if built already.
      stop: asked between chunks of steps whether to save and end.
      started: when the program began, as `time.perf_counter` has it, for the time to the first
        step; now if omitted.
      dense: the dense network, if it is trained already; the log then begins with the first prune.

    Returns:
      The final state and the records of all phases.

    Raises:
      ValueError, OSError: before any training, for bad input; if there is no room.
      FloatingPointError: if the loss becomes NaN.
      KeyboardInterrupt: if interrupted; the folder then holds what was done.
      jp.training.Preempted: if ``stop`` asked to end; the run is saved.
    """
    started = time.perf_counter() if started is None else started
    console = console or Console(quiet=not devices.is_first())
    check_run_dir(config)
    if parts is None:
        parts = build(config, say=caches.teller(console))
    identity = parts.identity()
    folder = reports.RunFolder(
        config.resolved_run_dir(),
        config,
        writes=devices.is_first(),
        data=identity if parts.note is None else identity | {"measure": parts.note},
        files=parts.files,
    )
    report = _Report(config, parts, folder, console, started)
    if dense is not None and not config.resume:
        report.begin_after(dense)
    remade, whole = parts.remade, parts

    def network(shrink: jp.training.Shrink) -> jp.training.Network:
        assert remade is not None
        report.parts.train.close()  # what a stream has opened
        now = report.parts = remade(shrink)
        train = now.train._replace(run=report.train)
        return jp.training.Network(train, now.evaluate, now.options["recalibrate"])

    how: dict[str, Any] = {"train": parts.train._replace(run=report.train)}
    if config.structured is not None:
        how = {"build": network}
    run_method = prune_and_retrain if config.structured is None else prune_channels
    try:
        result = run_method(
            config,
            parts,
            **how,
            dense=dense,
            on_phase=report.phase,
            checkpoints=jp.training.Checkpoints(
                folder.checkpoints,
                every=config.checkpoint_epochs * parts.epoch_steps,
                resume=config.resume,
                settings=compared(config) | compared_data(identity),
                extra=report.saved,
                on_resume=report.resume,
                stop=stop,
                on_nan=config.on_nan,
            ),
        )
    finally:
        report.close()
    if isinstance(result, jp.training.StructuredResult):
        _finish_structured(whole, result, folder, report, console)
        return jp.training.RunResult(result.state, result.records)
    state = result.state
    params, mask, more = devices.on_host((state.params, state.mask, state.model_state))
    if devices.is_first():
        folder.save_network({"params": params, **(more or {})}, {"params": mask})
        report.draw_weights(params, mask)
        reports.draw_layers(mask, folder.path / "sparsity.png", report.title)
        reports.print_mask_table(params, mask, console)
        reports.print_table(report.records, report.title, report.log, console, parts.note)
        console.print(f"Run folder: {folder.path}")
    return result


def _finish_structured(
    parts: Setup,
    result: jp.training.StructuredResult,
    folder: reports.RunFolder,
    report: "_Report",
    console: Console,
) -> None:
    """Measures the small network beside the dense one, saves it, and prints the table."""
    if not devices.is_first():
        return
    left = result.records[-1].left
    assert left is not None
    x = jax.device_put(np.zeros((_TIMED, *parts.image_shape), np.float32))
    found = channels.measured_speedup(parts.model, parts.state, result, x)
    report.log.speedups[result.records[-1].phase] = round(found.speedup.median, 3)
    params, more = devices.on_host((result.state.params, result.state.model_state))
    names = {"params": params, **(more or {})}
    masks = {"params": result.masks["params"], **(result.masks["model_state"] or {})}
    folder.save_small(names, masks)
    report.write_summary()
    for path, width in left.widths.items():
        console.print(f"{path}: {width} channels", highlight=False)
    reports.print_table(report.records, report.title, report.log, console)
    console.print(f"Inference of {_TIMED} images: {found}", highlight=False)
    console.print(f"Run folder: {folder.path}")


class _Report:
    """What is written while a run goes on."""

    def __init__(
        self,
        config: Config,
        parts: Setup,
        folder: reports.RunFolder,
        console: Console,
        started: float,
    ):
        self.config, self.parts, self.folder = config, parts, folder
        self.console, self.started, self.begun = console, started, False
        self.log, self.records, self.trained = reports.Log(kind=config.kind()), [], 0
        self.title = f"{config.model} on {config.data_name()}, {_how(config)}, seed {config.seed}"
        # The first stretch of steps waits for the compiler.
        self.speed, self.compiled = reports.Speed(config.batch_size), False
        steps = config.total_epochs() * parts.epoch_steps
        self.progress = reports.Progress(steps, config.batch_size, console, config.kind())
        after = config.retrain_epochs if config.method in ITERATIVE else 0
        self.last_prune = steps - after * parts.epoch_steps
        if config.structured is not None:  # there is no picture of weights that have no place
            self.last_prune = -1
        traced = config.profile and devices.is_first()
        self.profile = reports.Profile(folder.path / "profile" if traced else None)

    def begin_after(self, dense: Dense) -> None:
        """Opens the folder where dense training has ended, which another run has done."""
        self.folder.open()
        self.folder.note(dense=dense.name)
        self.trained = self.config.epochs * self.parts.epoch_steps
        self.progress.start()
        self.progress.done(self.trained)
        if self.trained == self.last_prune and devices.is_first():
            reports.save_before(devices.on_host(dense.state.params), self.folder.path)

    def train(
        self, state: TrainState, rates: np.ndarray, _: Any, stop: Stop | None = None
    ) -> tuple[TrainState, Any]:
        """Trains, reports each chunk, and validates after each epoch; a NaN loss ends it."""
        if not self.folder.is_open:
            # Only now, when the plan of the run has been checked: bad input leaves no folder.
            self.folder.open()
            self.progress.start()
        pieces, done = [], 0
        while done < len(rates):
            left = self.parts.epoch_steps - self.trained % self.parts.epoch_steps
            if self.parts.stepwise and not self.compiled:
                left = 1  # its result is waited for, to say how long the first step took
            piece = rates[done : done + left]
            begin = time.perf_counter()
            state, metrics = self.parts.train.run(state, piece, self._chunk, stop)
            steps = len(next(iter(metrics.values()), ()))
            if self.compiled and steps:
                self.speed.stretch(steps, time.perf_counter() - begin)
            self.compiled = True
            pieces.append(metrics)
            done += steps
            self.trained += steps
            if steps < len(piece) or np.isnan(metrics["loss"]).any():
                break
            if self.trained % self.parts.epoch_steps == 0:
                self._validate(state)
        if done and self.trained == self.last_prune:
            before = devices.on_host(self.parts.deployed(state).params)
            if devices.is_first():
                reports.save_before(before, self.folder.path)
        return state, join_metrics(pieces)

    def _chunk(self, first_step: int, rates: np.ndarray, metrics: dict[str, np.ndarray]) -> None:
        if not self.begun:
            self.begun = True
            self._say_begun(len(rates))
        self.log.add_chunk(first_step, rates, metrics[self.config.kind().curve.name])
        for i, rate in enumerate(rates):
            row = {"kind": "train", "cycle": len(self.records), "step": first_step + i}
            values = {name: float(values[i]) for name, values in metrics.items()}
            self.folder.log({**row, "learning_rate": float(rate), **values})
        self.progress.chunk(rates, metrics)
        self.profile.chunk()

    def _say_begun(self, steps: int) -> None:
        """Says how long it took to get here: imports, data, tracing and compilation."""
        seconds = round(time.perf_counter() - self.started, 1)
        what = "First step" if steps == 1 else f"First {steps} steps, one program,"
        self.console.print(f"{what} done {seconds} s after the start.", highlight=False)
        self.folder.note(seconds_to_first_step=seconds)

    def _validate(self, state: TrainState) -> None:
        step, values = int(state.step), self.parts.evaluate_validation(self.parts.deployed(state))
        self.log.validation.append((step, values[self.config.kind().curve.name]))
        row = {f"validation_{name}": value for name, value in values.items()}
        self.folder.log({"kind": "validation", "cycle": len(self.records), "step": step, **row})

    def phase(self, record: PhaseRecord) -> None:
        """A phase has ended."""
        self.records.append(record)
        self.log.speeds[record.phase] = self.speed.images_per_second()
        # Not the sum of both: a run that went back after a NaN has skipped steps.
        end = max(self.log.steps[-1:], default=record.first_step - 1) + 1
        kind = self.config.kind()
        if record.evaluation_pruned is not None:
            value = record.evaluation_pruned[kind.curve.name]
            self.log.prunings.append((record.first_step, record.sparsity, value))
        self.log.test.append((end, record.evaluation[kind.curve.name]))
        row = reports.summary_rows([record], self.log)[0]
        # `accuracy` alone is that of a batch of training.
        measured = {name for m in kind.measures for name in (m.name, f"{m.name}_pruned")}
        row = {f"test_{k}" if k in measured else k: v for k, v in row.items()}
        place = {"cycle": record.cycle, "first_step": record.first_step, "step": end}
        self.folder.log({"kind": "phase", **place, **row})
        self._name_phase()

    def _name_phase(self) -> None:
        if not self.records:
            return
        if self.config.method not in ITERATIVE:
            self.progress.phase("final prune")
        elif len(self.records) <= self.config.cycles:
            self.progress.phase(f"cycle {len(self.records)}")

    def saved(self) -> dict[str, Any]:
        """What a checkpoint must know of the reports: the rows up to it are on the disk."""
        return self.folder.sync()._asdict()

    def resume(self, resumed: Resumed) -> None:
        """Goes back, or on, to a checkpoint. What cannot be read is an error before any change."""
        mark = reports.Mark(**resumed.extra)
        if mark.bytes == 0:
            self.folder.open()  # made before the first step
        else:
            self.log.replay(self.folder.rows(mark))
            self.folder.reopen(mark, step=resumed.steps)
        self.records[:] = resumed.records
        self.trained = resumed.steps
        self.progress.start()
        self.progress.done(resumed.steps)
        self._name_phase()

    def draw_weights(self, params: Any, mask: Any) -> None:
        """Draws weights.png."""
        before = None
        try:
            before = reports.load_before(params, self.folder.path)
        except ValueError as error:
            said = f"{error}: weights.png shows the weights at the end of the run alone."
            self.console.print(said, style="yellow", markup=False, highlight=False)
        path = self.folder.path / "weights.png"
        reports.draw_weight_histogram(params, mask, path, before=before)

    def write_summary(self) -> None:
        """Writes summary.csv."""
        about = reports.about(self.config)
        rows = [about | row for row in reports.summary_rows(self.records, self.log)]
        self.folder.write_summary((*about, *reports.columns(self.config.kind())), rows)

    def close(self) -> None:
        """Writes table and pictures of what was done."""
        self.progress.stop()
        self.profile.stop()
        self.parts.train.close()
        self.folder.close()
        if self.folder.is_open and devices.is_first():
            with contextlib.suppress(OSError):  # no room: the run has said so already
                self.write_summary()
                if self.log.steps:
                    reports.draw(self.log, self.folder.path, self.title)


def _how(config: Config) -> str:
    fixed = fixed_sparsity(config)
    target = f"{100 * (config.sparsity if fixed is None else fixed):g} %"
    if config.method in ITERATIVE:
        return f"{config.method} to {target} ({config.schedule})"
    free = fixed is None and config.method in (*UNCONTROLLED, "dense")
    return config.method if free else f"{config.method} to {target}"
