"""One network at one batch size: the loops side by side, and the parts of a whole run."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from experiments.bench.common import machine as _machine
from experiments.bench.common import pairs as _pairs
from experiments.bench.common import timing as _timing
from experiments.bench.training import loops as _training_jax
from experiments.bench.training import problems as _training_problems
from experiments.bench.training import pytorch as _training_torch
from experiments.bench.training import report as _training_report
from experiments.bench.training import whole_run as _training_run
from experiments.bench.training.peaks import Peak
from experiments.bench.training.report import DENSE, OURS, TORCH


class Plan(NamedTuple):
    """How much is measured; see the settings of the command. Pairs: at least, and at most."""

    pairs: tuple[int, int]
    block_seconds: float
    seconds_per_side: float
    images: int
    evaluated: int
    sparsity: float
    precision: str
    seed: int


class Measured(NamedTuple):
    """Rows for the report.

    Attributes:
      row: images a second of all loops.
      run: a whole run, `None` where the network is not one of CIFAR or nothing was measured.
      image_seconds: of our loop, for estimates.
    """

    row: _training_report.Row
    run: _training_report.Row | None
    image_seconds: float


def case(
    name: str, batch: int, plan: Plan, *, peak: Peak | None, image_seconds: float | None
) -> Measured:
    """Measures one network at one batch size.

    Args:
      name: of the network.
      batch: images in a batch.
      plan: how much.
      peak: of the device.
      image_seconds: of our loop for an image at another batch size, if measured: where it says that
        there is no time, nothing is compiled.

    Returns:
      The rows; where the budget is too small, a row that says so.

    Raises:
      RuntimeError: if a network is not what it is to be.
    """
    problem = _training_problems.make(
        name, batch, images=max(plan.images, batch), precision=plan.precision, seed=plan.seed
    )
    facts: dict[str, Any] = {
        "parameters": problem.parameters,
        "weights": problem.weights,
        "dense_loop": None,
        "torch_format": None,
        "not_measured": None,
        "torch_not_measured": None,
    }
    row = partial(
        _training_report.row, name, batch, facts=facts, flops=problem.step_flops, peak=peak
    )

    def skipped(step_seconds: float) -> Measured:
        side = step_seconds * _blocks(plan.pairs[0])
        facts["not_measured"] = (
            f"skipped: a step takes about {step_seconds:.3g} s, so our side would take "
            f"{side:,.0f} s of the {plan.seconds_per_side:g} s that seconds_per_side allows"
        )
        return Measured(row(pairs={}, steps=0), None, step_seconds / batch)

    if image_seconds is not None and _too_long(image_seconds * batch, plan):
        return skipped(image_seconds * batch)
    train = _training_jax.train_loop(problem)
    ours = _training_jax.ours(problem, train, plan.sparsity)
    first, ours = _call(ours, 1)
    step_seconds, ours = _call(ours, 1)
    if _too_long(step_seconds, plan):
        return skipped(step_seconds)
    compile_step = max(first - step_seconds, 0.0)
    if _training_jax.runs_chunks_well(problem):
        first, ours = _call(ours, _training_jax.CHUNK_STEPS)
        again, ours = _call(ours, _training_jax.CHUNK_STEPS)
        compile_step += max(first - again, 0.0)
        step_seconds = again / _training_jax.CHUNK_STEPS
    steps = max(1, math.ceil(plan.block_seconds / step_seconds))

    dense = {_training_jax.BY_STEP: partial(_training_jax.dense, problem, chunks=False)}
    if _training_jax.runs_chunks_well(problem):
        dense[_training_jax.BY_CHUNK] = partial(_training_jax.dense, problem, chunks=True)
        if steps > 1:  # whole chunks
            steps = _training_jax.CHUNK_STEPS * math.ceil(steps / _training_jax.CHUNK_STEPS)
    loops = {OURS: ours}
    facts["dense_loop"], loops[DENSE] = _faster(dense, steps)
    try:
        facts["torch_format"], loops[TORCH] = _torch(problem, plan, steps)
    except _timing.Unavailable as reason:
        facts["torch_not_measured"] = str(reason)

    runners = {
        side: _pairs.Runner(lambda carry, loop=loop: loop.run(carry, steps), loop.carry)
        for side, loop in loops.items()
    }
    pairs, carries = _pairs.interleaved(
        OURS,
        runners,
        pairs=_pairs_that_fit(steps * step_seconds, plan),
        block_seconds=0.0,
        seed=plan.seed,
    )
    state = carries[OURS]
    _training_jax.check_sparse(state, problem.weights, plan.sparsity)
    out = row(pairs=pairs, steps=steps)
    run = None
    if _training_problems.SHAPES[name] == _training_problems.CIFAR:
        parts = _training_run.measure(
            problem,
            train,
            state,
            compile_step=compile_step,
            sparsity=plan.sparsity,
            images=plan.evaluated,
        )
        run = _training_run.row(problem, out["ours_seconds"], parts)
    return Measured(out, run, out["ours_seconds"] / batch)


def _blocks(pairs: int) -> int:
    """Blocks of our side: untimed ones, and one for each pair with each of two other sides."""
    return 5 + 2 * pairs


def _too_long(step_seconds: float, plan: Plan) -> bool:
    return step_seconds * _blocks(plan.pairs[0]) > plan.seconds_per_side


def _pairs_that_fit(block_seconds: float, plan: Plan) -> int:
    least, most = plan.pairs
    fitting = (plan.seconds_per_side / block_seconds - _blocks(0)) / 2
    return max(least, min(most, int(fitting)))


def _call(loop: _training_jax.Loop, steps: int) -> tuple[float, _training_jax.Loop]:
    begin = time.perf_counter()
    carry = jax.block_until_ready(loop.run(loop.carry, steps))
    return time.perf_counter() - begin, loop._replace(carry=carry)


def _faster(
    makers: Mapping[str, Callable[[], _training_jax.Loop]], steps: int
) -> tuple[str, _training_jax.Loop]:
    """The fastest of several loops, by the better of two blocks."""
    best = None
    for name, make in makers.items():
        loop = make()
        seconds = math.inf
        if len(makers) > 1:
            _, loop = _call(loop, min(steps, 2))  # untimed
            for _ in range(2):
                once, loop = _call(loop, steps)
                seconds = min(seconds, once)
        if best is None or seconds < best[0]:
            best = seconds, name, loop
    assert best is not None
    return best[1], best[2]


def _torch(
    problem: _training_problems.Problem, plan: Plan, steps: int
) -> tuple[str, _training_jax.Loop]:
    """The faster memory format in PyTorch.

    Raises:
      Unavailable: with the reason.
    """
    device = torch_device()
    torch = _training_torch.load(device=device)
    convolutions = any(leaf.ndim > 2 for leaf in jax.tree.leaves(problem.params))
    forms = _training_torch.FORMATS if convolutions else _training_torch.FORMATS[:1]
    makers = {
        form: partial(
            _training_torch.loop,
            problem,
            plan.sparsity,
            form=form,
            device=device,
            threads=_machine.usable_cpus(),
            torch=torch,
        )
        for form in forms
    }
    try:
        return _faster(makers, steps)
    except torch.OutOfMemoryError as error:
        first = str(error).strip().splitlines()[0]
        raise _timing.Unavailable(f"PyTorch: {first[:120]}") from None


def torch_device() -> str:
    """What PyTorch calls the device of JAX."""
    backend = jax.default_backend()
    return "cuda" if backend in ("gpu", "cuda") else backend
