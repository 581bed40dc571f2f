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
import json
import os
import pathlib
import sys
from functools import partial
from typing import Any, Literal

import jax
from rich.console import Console

import jaxprune as jp
from experiments.bench.common import document as _document
from experiments.bench.common import machine as _machine
from experiments.bench.common import pairs as _pairs
from experiments.bench.overhead import optimizers as _optimizers
from experiments.bench.overhead import problems as _problems
from experiments.bench.overhead import report as _overhead_report

_LEAST_PAIRS, _LEAST_MLP_BATCH = 25, 128
_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time training steps with and without a mask."""

    models: tuple[str, ...] = ("mlp", "resnet20", "transformer")
    """Models: mlp, resnet20, transformer."""

    methods: tuple[str, ...] = _optimizers.METHODS
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

    mlp_batch: int | None = None
    """Images in a batch of the MLP, at least 128. Sizes not given: small on a CPU, where batches
    of ResNet-20 are of 32 images because XLA's convolutions are slow there, large elsewhere."""

    mlp_width: int | None = None
    """Units of each of the two hidden layers of the MLP."""

    resnet_batch: int | None = None
    """Images in a batch of the ResNet-20."""

    transformer_batch: int | None = None
    """Sequences in a batch of the transformer."""

    transformer_length: int | None = None
    """Tokens in a sequence."""

    transformer_width: int | None = None
    """Width of the transformer; its heads are 64 wide."""

    seed: int = 0
    """Seed of parameters, data and the order within pairs."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    out: pathlib.Path = pathlib.Path("runs/bench/overhead.json")
    """File for the result; the tables go beside it, with the suffixes .md and .csv."""


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured.

    Raises:
      ValueError: with the value and the repair.
    """
    for field, known in (("models", _problems.PROBLEMS), ("methods", _optimizers.METHODS)):
        names = getattr(settings, field)
        for name in names:
            if name not in known:
                raise ValueError(f"unknown name {name!r} in {field}. Known: {', '.join(known)}.")
        if not names:
            raise ValueError(f"{field} is empty. Known: {', '.join(known)}.")
    if not 0 < settings.sparsity < 1:
        raise ValueError(
            f"sparsity is the fraction removed, in (0, 1); got {settings.sparsity}. The usual "
            "choice is 0.9."
        )
    if not settings.block_seconds >= 0:
        raise ValueError(f"block_seconds is at least 0; got {settings.block_seconds}.")
    least = {"pairs": _LEAST_PAIRS, "mlp_batch": _LEAST_MLP_BATCH, "seed": 0}
    for field in (*_problems.Sizes._fields, "pairs", "updates", "interval", "seed"):
        value = getattr(settings, field)
        if value is not None and value < least.get(field, 1):
            raise ValueError(f"{field} is at least {least.get(field, 1)}; got {value}.")


def sizes(settings: Settings) -> _problems.Sizes:
    """The sizes asked for, and those of this kind of device for the rest."""
    on_cpu = jax.devices()[0].platform == "cpu"
    defaults = _problems.ON_CPU if on_cpu else _problems.ON_ACCELERATOR
    given = {field: getattr(settings, field) for field in defaults._fields}
    return defaults._replace(**{k: v for k, v in given.items() if v is not None})


def measure(
    name: str, settings: Settings, *, bytes_per_second: float
) -> list[_overhead_report.Row]:
    """Measures every method on one model.

    Args:
      name: a key of `PROBLEMS`.
      settings: the settings.
      bytes_per_second: of the memory, for the bounds.

    Returns:
      A row for each method.

    Raises:
      RuntimeError: if a network is not as sparse after the timed steps as its mask says, or the
        mask moved where it should not, or did not where it should.
    """
    problem = _problems.PROBLEMS[name](sizes(settings), jax.random.key(settings.seed))
    scores = jp.scores.magnitude(problem.params)
    weights, leaves = sum(x.size for x in jax.tree.leaves(scores)), len(jax.tree.leaves(scores))
    runners: dict[str, _pairs.Runner] = {}
    due: dict[str, Any] = {}
    temporary: dict[str, int | None] = {}
    held: dict[str, int | None] = {}
    for method in (_optimizers.DENSE, *settings.methods):
        start = _optimizers.make(method, settings.optimizer, problem.params, settings.sparsity)
        carry = _optimizers.carry_of(problem, start.opt_state)
        step = _optimizers.training_step(problem, start.tx)
        compiled = jax.jit(step, donate_argnums=0).lower(carry, problem.batch).compile()
        memory = compiled.memory_analysis()
        temporary[method] = held[method] = None
        if memory is not None:
            temporary[method] = memory.temp_size_in_bytes
            held[method] = (
                memory.temp_size_in_bytes
                + memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                - memory.alias_size_in_bytes
            )
        runners[method] = _pairs.Runner(partial(_call, compiled, problem.batch), carry)
        if start.due is not None:
            due[method] = _optimizers.carry_of(problem, start.due)

    masks = {m: _mask(runners[m].carry) for m in settings.methods}
    pairs, carries = _pairs.interleaved(
        _optimizers.DENSE,
        runners,
        pairs=settings.pairs,
        block_seconds=settings.block_seconds,
        seed=settings.seed,
    )
    updates: dict[str, _pairs.Pairs] = {}
    for method in settings.methods:
        _check_sparse(name, method, carries[method], masks[method], moved=False)
        if method in due:
            ordinary = runners[method]._replace(carry=carries[method])
            updating = ordinary._replace(carry=due[method])
            updates[method], after = _pairs.alone(ordinary, updating, runs=settings.updates)
            _check_sparse(name, method, after, _mask(due[method]), moved=True)
    # Weights and gradients, and moments: one of SGD, two of AdamW.
    copies = 3 if settings.optimizer == "sgd" else 4
    return [
        _overhead_report.row(
            name,
            problem.what,
            method,
            weights=weights,
            leaves=leaves,
            copies=copies,
            outcome=pairs[method],
            updates=updates.get(method),
            temporary_bytes=temporary,
            held_bytes=held,
            bytes_per_second=bytes_per_second,
            interval=settings.interval,
        )
        for method in settings.methods
    ]


def _call(compiled: Any, batch: Any, carry: _optimizers.Carry) -> _optimizers.Carry:
    return compiled(carry, batch)


def _mask(carry: _optimizers.Carry) -> Any:
    return jp.transforms.get_mask(carry.opt_state)


def _check_sparse(
    model: str, method: str, carry: _optimizers.Carry, before: Any, *, moved: bool
) -> None:
    """Raises unless the times are those of what they are called."""
    mask = _mask(carry)
    same = all(
        bool((a == b).all())
        for a, b in zip(jax.tree.leaves(mask), jax.tree.leaves(before), strict=True)
    )
    if same == moved:
        word = "did not move in a mask update" if moved else "moved between mask updates"
        raise RuntimeError(f"{model}, {method}: the mask {word}. No time of it is reported.")
    pruned = jax.tree.leaves(
        jax.tree.map(
            lambda m, w: m is not None and bool((~m & (w != 0)).any()),
            mask,
            carry.params,
            is_leaf=lambda x: x is None,
        )
    )
    if any(pruned):
        raise RuntimeError(f"{model}, {method}: a pruned weight is not zero. Repair it first.")


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all models and writes the JSON file and the tables, after each model anew.

    Args:
      settings: the settings.
      console: where progress goes; standard output if omitted.

    Returns:
      The tables, in Markdown.

    Raises:
      ValueError, OSError: before anything is measured, for bad input.
      RuntimeError: as `measure`; what was measured before is in the file.
    """
    console = console or Console()
    check(settings)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "command": _document.command("experiments.bench.overhead", settings),
        "settings": {
            **dataclasses.asdict(settings),
            **sizes(settings)._asdict(),
            "out": os.fspath(settings.out),
        },
        "machine": _machine.describe(_PACKAGES),
        "started": _document.now(),
        "load_before": _machine.load(),
        "bytes_per_second": _pairs.copy_bytes_per_second(_copied_bytes()),
        "results": [],
    }
    table = ""
    for name in settings.models:
        console.print(f"{name} ...")
        rows = measure(name, settings, bytes_per_second=document["bytes_per_second"])
        results = [*document["results"], *rows]
        document.update(
            results=results,
            targets=_overhead_report.targets(results),
            load_after=_machine.load(),
            finished=_document.now(),
        )
        settings.out.write_text(json.dumps(document, indent=2) + "\n")
        table = _overhead_report.markdown(document)
        settings.out.with_suffix(".md").write_text(table + "\n")
        settings.out.with_suffix(".csv").write_text(_overhead_report.as_csv(results))
    return table


def _copied_bytes() -> int:
    """More than caches hold."""
    return 1 << (28 if jax.devices()[0].platform == "cpu" else 31)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 a wrong mask, 2 bad input, 130 interrupted).

    A missed target is printed and is no error.
    """
    return _document.main(
        Settings, run, module="experiments.bench.overhead", parts="models", arguments=arguments
    )


if __name__ == "__main__":
    sys.exit(main())
