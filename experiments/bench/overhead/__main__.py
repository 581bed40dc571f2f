"""What a training step costs more when its optimizer keeps the network sparse.

    python -m experiments.bench.overhead

Full training steps (loss and gradients, optimizer, new parameters) of an MLP, a ResNet-20 and a
small transformer, compiled, with parameters and optimizer state donated and carried on: with a
plain optimizer, and with the same one in `fixed_mask`, `gmp` and `rigl`. Steps are timed in pairs
with the dense one, between mask updates; a mask update is timed apart. Next to the ratios stand
the bound that follows from the bytes that must be read, what the compiler holds in temporaries,
and whether what was aimed at is met.

The result goes to a JSON file and, as Markdown and CSV, beside it. The default run takes three to
eight minutes on two CPU cores, by what else runs there.
"""

import dataclasses
import pathlib
import sys
from functools import partial
from typing import Any, Literal

import jax
from rich.console import Console

import jaxprune as jp
from experiments.bench.common import document, pairs
from experiments.bench.overhead import optimizers, problems, report


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time training steps with and without a mask."""

    models: tuple[str, ...] = ("mlp", "resnet20", "transformer")
    """Models: mlp, resnet20, transformer."""

    methods: tuple[str, ...] = optimizers.METHODS
    """Methods beside dense: fixed_mask, gmp, rigl."""

    pairs: int = 25
    """Pairs of each method with dense, at least 25."""

    updates: int = 7
    """Mask updates that are timed, each from the same state and beside an ordinary step."""

    interval: int = 100
    """Steps between mask updates over which the cost of one is spread in the table."""

    sparsity: float = 0.9
    """Fraction removed, in (0, 1)."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum 0.9 and weight decay, or AdamW."""

    block_seconds: float = 0.1
    """How long each side of a pair runs at least, in whole steps."""

    seed: int = 0
    """Seed of parameters, data and the order within pairs."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    out: pathlib.Path = pathlib.Path("runs/bench/overhead.json")
    """File for the result; the tables go beside it, with the suffixes .md and .csv."""


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured."""
    document.check_names(settings, "models", problems.PROBLEMS)
    document.check_names(settings, "methods", optimizers.METHODS)
    document.check_fraction("sparsity", settings.sparsity)
    document.check_least(settings, block_seconds=0, pairs=25, updates=1, interval=1, seed=0)


def measure(name: str, settings: Settings, *, bytes_per_second: float) -> list[report.Row]:
    """Measures every method on one model."""
    problem = problems.PROBLEMS[name](problems.sizes(), jax.random.key(settings.seed))
    leaves = jax.tree.leaves(jp.scores.magnitude(problem.params))
    runners: dict[str, pairs.Runner] = {}
    due: dict[str, Any] = {}
    temporary: dict[str, int | None] = {}
    held: dict[str, int | None] = {}
    for method in (optimizers.DENSE, *settings.methods):
        start = optimizers.make(method, settings.optimizer, problem.params, settings.sparsity)
        carry = optimizers.carry_of(problem, start.opt_state)
        step = optimizers.training_step(problem, start.tx)
        compiled = jax.jit(step, donate_argnums=0).lower(carry, problem.batch).compile()
        memory = compiled.memory_analysis()
        if memory is not None:
            temporary[method] = memory.temp_size_in_bytes
            held[method] = (
                memory.temp_size_in_bytes
                + memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                - memory.alias_size_in_bytes
            )
        runners[method] = pairs.Runner(
            lambda carry, compiled=compiled: compiled(carry, problem.batch), carry
        )
        if start.due is not None:
            due[method] = optimizers.carry_of(problem, start.due)

    masks = {m: _mask(runners[m].carry) for m in settings.methods}
    times, carries = pairs.interleaved(
        optimizers.DENSE,
        runners,
        pairs=settings.pairs,
        block_seconds=settings.block_seconds,
        seed=settings.seed,
    )
    updates: dict[str, pairs.Pairs] = {}
    for method in settings.methods:
        _check_sparse(name, method, carries[method], masks[method], moved=False)
        if method in due:
            ordinary = runners[method]._replace(carry=carries[method])
            updating = ordinary._replace(carry=due[method])
            updates[method], after = pairs.alone(ordinary, updating, runs=settings.updates)
            _check_sparse(name, method, after, _mask(due[method]), moved=True)
    return [
        report.row(
            name,
            problem.what,
            method,
            weights=sum(x.size for x in leaves),
            leaves=len(leaves),
            # Weights and gradients, and moments: one of SGD, two of AdamW.
            copies=3 if settings.optimizer == "sgd" else 4,
            pairs=times[method],
            updates=updates.get(method),
            temporary_bytes=temporary,
            held_bytes=held,
            bytes_per_second=bytes_per_second,
            interval=settings.interval,
        )
        for method in settings.methods
    ]


def _mask(carry: optimizers.Carry) -> Any:
    return jp.transforms.get_mask(carry.opt_state)


def _check_sparse(
    model: str, method: str, carry: optimizers.Carry, before: Any, *, moved: bool
) -> None:
    """Raises unless the times are those of what they are called."""
    mask = _mask(carry)
    same = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), mask, before))
    if same == moved:
        word = "did not move in a mask update" if moved else "moved between mask updates"
        raise RuntimeError(f"{model}, {method}: the mask {word}. No time of it is reported.")
    masked = jp.apply_mask(carry.params, mask)
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), carry.params, masked)
    if not jax.tree.all(equal):
        raise RuntimeError(f"{model}, {method}: a pruned weight is not zero. Repair it first.")


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all models and returns the tables."""
    check(settings)
    # More than caches hold.
    speed = pairs.copy_bytes_per_second(1 << (28 if jax.devices()[0].platform == "cpu" else 31))

    def finish(found: document.Document) -> None:
        found["targets"] = report.targets(found["results"])

    return document.write(
        "overhead",
        settings,
        [(n, partial(measure, n, settings, bytes_per_second=speed)) for n in settings.models],
        markdown=report.markdown,
        finish=finish,
        console=console,
        packages=("jax", "jaxlib", "numpy", "optax", "flax"),
        given=problems.sizes()._asdict(),
        facts={"bytes_per_second": speed},
        csv_without="block_seconds",
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 a wrong mask, 2 bad input, 130 stopped)."""
    return document.main(Settings, run, name="overhead", parts="models", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
