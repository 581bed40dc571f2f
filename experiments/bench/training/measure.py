"""One network at one batch size: the loops side by side, and the parts of a whole run."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from experiments.bench.common import machine, pairs
from experiments.bench.common.timing import Unavailable
from experiments.bench.training import loops, problems, pytorch, report, whole_run
from experiments.bench.training.peaks import Peak
from experiments.bench.training.report import DENSE, OURS, TORCH
from experiments.bench.training.settings import LEAST_PAIRS, MOST_PAIRS, Settings


class Measured(NamedTuple):
    """Rows for the report."""

    row: report.Row  # images a second of all loops
    # a whole run, `None` where the network is not one of CIFAR or nothing was measured
    run: report.Row | None
    image_seconds: float  # of our loop, for estimates


def case(
    name: str, batch: int, settings: Settings, *, peak: Peak | None, image_seconds: float | None
) -> Measured:
    """Measures one network at one batch size.

    Args:
      name: of the network.
      batch: images in a batch.
      settings: those of the command.
      peak: of the device.
      image_seconds: of our loop for an image at another batch size, if measured: where it says that
        there is no time, nothing is compiled.

    Returns:
      The rows; where there is too little time, a row that says so.
    """
    problem = problems.make(
        name,
        batch,
        images=max(settings.images, batch),
        precision=settings.precision,
        seed=settings.seed,
    )
    facts: dict[str, Any] = {
        "parameters": problem.parameters,
        "weights": problem.weights,
        "dense_loop": None,
        "torch_format": None,
        "not_measured": None,
        "torch_not_measured": None,
    }
    row = partial(report.row, name, batch, facts=facts, flops=problem.step_flops, peak=peak)
    chunked = loops.runs_chunks_well(problem)

    def skipped(step_seconds: float) -> Measured | None:
        side = step_seconds * _blocks(settings.pairs or LEAST_PAIRS)
        if side <= settings.seconds_per_side:
            return None
        facts["not_measured"] = (
            f"skipped: a step takes about {step_seconds:.3g} s, so our side would take "
            f"{side:,.0f} s of the {settings.seconds_per_side:g} s that seconds_per_side allows"
        )
        return Measured(row(pairs={}, steps=0), None, step_seconds / batch)

    if image_seconds is not None and (found := skipped(image_seconds * batch)):
        return found
    train = loops.train_loop(problem)
    ours = loops.ours(problem, train, settings.sparsity)
    first, ours = loops.call(ours, 1)
    step_seconds, ours = loops.call(ours, 1)
    if found := skipped(step_seconds):
        return found
    compile_step = max(first - step_seconds, 0.0)
    if chunked:
        first, ours = loops.call(ours, loops.CHUNK_STEPS)
        again, ours = loops.call(ours, loops.CHUNK_STEPS)
        compile_step += max(first - again, 0.0)
        step_seconds = again / loops.CHUNK_STEPS
    steps = max(1, math.ceil(settings.block_seconds / step_seconds))

    dense = {loops.BY_STEP: partial(loops.dense, problem, chunks=False)}
    if chunked:
        dense[loops.BY_CHUNK] = partial(loops.dense, problem, chunks=True)
        if steps > 1:  # whole chunks
            steps = loops.CHUNK_STEPS * math.ceil(steps / loops.CHUNK_STEPS)
    sides = {OURS: ours}
    facts["dense_loop"], sides[DENSE] = _faster(dense, steps)
    try:
        facts["torch_format"], sides[TORCH] = _torch(problem, settings, steps)
    except Unavailable as reason:
        facts["torch_not_measured"] = str(reason)

    runners = {
        side: pairs.Runner(lambda carry, loop=loop: loop.run(carry, steps), loop.carry)
        for side, loop in sides.items()
    }
    times, carries = pairs.interleaved(
        OURS,
        runners,
        pairs=pairs_that_fit(steps * step_seconds, settings),
        block_seconds=0.0,
        seed=settings.seed,
    )
    state = carries[OURS]
    loops.check_sparse(state, problem.weights, settings.sparsity)
    out = row(pairs=times, steps=steps)
    run = None
    if problems.SHAPES[name] == problems.CIFAR:
        parts = whole_run.measure(
            problem,
            train,
            state,
            compile_step=compile_step,
            sparsity=settings.sparsity,
            images=settings.evaluated_images(),
        )
        run = whole_run.row(problem, out["ours_seconds"], parts)
    return Measured(out, run, out["ours_seconds"] / batch)


def _blocks(number: int) -> int:
    """Blocks of our side: untimed ones, and one for each pair with each of two other sides."""
    return 5 + 2 * number


def pairs_that_fit(block_seconds: float, settings: Settings) -> int:
    """How many pairs the seconds allow."""
    if settings.pairs:
        return settings.pairs
    fitting = (settings.seconds_per_side / block_seconds - _blocks(0)) / 2
    return max(LEAST_PAIRS, min(MOST_PAIRS, int(fitting)))


def _faster(makers: Mapping[str, Callable[[], loops.Loop]], steps: int) -> tuple[str, loops.Loop]:
    """The fastest of several loops, by the better of two blocks."""
    found = []
    for name, make in makers.items():
        loop, seconds = make(), [math.inf]
        if len(makers) > 1:
            _, loop = loops.call(loop, min(steps, 2))  # untimed
            for _ in range(2):
                once, loop = loops.call(loop, steps)
                seconds.append(once)
        found.append((min(seconds), name, loop))
    _, name, loop = min(found, key=lambda one: one[0])
    return name, loop


def _torch(problem: problems.Problem, settings: Settings, steps: int) -> tuple[str, loops.Loop]:
    """The faster memory format in PyTorch."""
    device = torch_device()
    torch = pytorch.load(device=device)
    convolutions = any(leaf.ndim > 2 for leaf in jax.tree.leaves(problem.params))
    make = partial(
        pytorch.loop,
        problem,
        settings.sparsity,
        device=device,
        threads=machine.usable_cpus(),
        torch=torch,
    )
    forms = pytorch.FORMATS if convolutions else pytorch.FORMATS[:1]
    try:
        return _faster({form: partial(make, form=form) for form in forms}, steps)
    except torch.OutOfMemoryError as error:
        first = str(error).strip().splitlines()[0]
        raise Unavailable(f"PyTorch: {first[:120]}") from None


def torch_device() -> str:
    """What PyTorch calls the device of JAX."""
    backend = jax.default_backend()
    return "cuda" if backend in ("gpu", "cuda") else backend
