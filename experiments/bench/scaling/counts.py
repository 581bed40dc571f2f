"""Counts from compiled programs: the messages and passes of a prune, the bytes of a step."""

import collections
import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

import jaxprune as jp
from jaxprune._selection import _bracket
from jaxprune.masks import _engine
from jaxprune.training.checkpoints import _portable

CPU_POINTS, ACCELERATOR_POINTS = _bracket._POINTS_CPU, _bracket._POINTS_ACCELERATOR

_ITEM = {"pred": 1, "u8": 1, "s8": 1, "u16": 2, "bf16": 2, "u32": 4, "s32": 4, "f32": 4, "u64": 8}
_CALL = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)

Shapes = Mapping[str, tuple[int, ...]]


class Messages(NamedTuple):
    """Collectives of a compiled program, each as its bytes on one device, by where it stands."""

    once: tuple[int, ...]  # outside of any loop
    sample: tuple[int, ...]  # in the search of the sample, for every turn
    search: tuple[int, ...]  # in the search of the threshold, for every turn
    # in the search of a position among equal scores, for every turn; of the leaf where it is most
    ties: tuple[int, ...]
    others: tuple[str, ...]  # names of collectives that are no all-reduce


class Passes(NamedTuple):
    """Turns of the loops in one prune."""

    sample: int  # of the search of the sample
    search: int  # of the search of the threshold; the last counts what lies below it and equals it
    ties: int  # of the searches of a position among equal scores, of all leaves together


@contextlib.contextmanager
def _selection(points: int) -> Iterator[None]:
    """The selection as an accelerator or a CPU has it, traced anew and not kept."""
    with (
        mock.patch.object(_bracket, "_POINTS_CPU", points),
        mock.patch.object(_bracket, "_POINTS_ACCELERATOR", points),
        mock.patch.object(_engine, "_compiled", _not_compiled(_engine._compiled)),
    ):
        yield


def _not_compiled(function: Any) -> Any:
    """What `jax.jit` was given: traced anew with every program that it is part of."""
    return function.__wrapped__


def messages(
    shapes: Shapes, *, dtype: str, points: int, within: bool, allocation: Any = None
) -> Messages:
    """Compiles a prune for all devices of this process and reads its collectives.

    Args:
      shapes: the leaves; each is cut as `fully_sharded` cuts parameters.
      dtype: of the scores.
      points: thresholds a pass.
      within: whether there is an earlier mask.
      allocation: global if omitted.

    Returns:
      The collectives.
    """
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rule = jp.training.fully_sharded(mesh)

    def arrays(of: str) -> dict[str, Any]:
        placed = {}
        for path, shape in shapes.items():
            where = NamedSharding(mesh, rule(path, np.broadcast_to(np.int8(0), shape)))
            placed[path] = jax.ShapeDtypeStruct(shape, jnp.dtype(of), sharding=where)
        return placed

    def make(scores: Any, before: Any) -> Any:
        return jp.masks.make_with_info(scores, 0.9, within=before, allocation=allocation)

    with _selection(points):
        before = arrays("bool") if within else None
        text = jax.jit(make).lower(arrays(dtype), before).compile().as_text()
    assert text is not None
    return read_messages(text)


def read_messages(text: str) -> Messages:
    """Reads the collectives of an optimised program."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    others: list[str] = []
    loops: list[str] = []
    with_branches: set[str] = set()
    branches: list[str] = []
    computation = ""
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith("{"):
            computation = "" if line.startswith("ENTRY") else re.split(r"[\s(]", line)[0].strip("%")
        # XLA's own loops, such as those of a scatter, are named after what they are made of.
        if body := re.search(r' while\(.*body=%?([\w.\-]+).*op_name="[^"]*/while"', line):
            loops.append(body[1])
        if choice := re.search(r" conditional\(.*?((?:branch|true)_computations?=.*)", line):
            # Only the search for ties has any: a branch a leaf, which reads it or leaves it out.
            with_branches.add(computation)
            branches += re.findall(r"%([\w.\-]+)", choice[1].split("metadata")[0])
        if call := _CALL.search(line):
            found[computation].append(_bytes(call[1]))
            if call[2] != "all-reduce":
                others.append(call[2])
    once = tuple(found.pop("", ()))
    searches = [tuple(found.get(body, ())) for body in loops if body not in with_branches]
    positions = [tuple(found.get(branch, ())) for branch in branches]
    return Messages(
        once=once,
        sample=searches[0] if len(searches) > 1 else (),
        search=searches[-1] if searches else (),
        ties=max(positions, key=sum, default=()),
        others=tuple(others),
    )


def _bytes(types: str) -> int:
    """The bytes of one array, ``u32[3,1]{1,0}``, or of a tuple of them."""
    total = 0
    for kind, axes in re.findall(r"(\w+)\[([\d,]*)\]", types):
        total += _ITEM[kind] * math.prod(int(n) for n in axes.split(",") if n)
    return total


def passes(
    scores: Any,
    sparsities: Sequence[float],
    *,
    points: int,
    within: Any = None,
    allocation: Any = None,
) -> list[Passes]:
    """Makes masks of real scores and counts the turns of the loops on the way.

    Args:
      scores: the scores.
      sparsities: fractions removed, one mask each.
      points: thresholds a pass.
      within: an earlier mask.
      allocation: global if omitted.

    Returns:
      The turns for each mask. Every one reads each score once; those of ties read one leaf.
    """
    turns: list[tuple[str, int]] = []
    while_loop = jax.lax.while_loop

    def counting(condition: Callable[..., Any], body: Callable[..., Any], start: Any) -> Any:
        name = condition.__qualname__.split(".")[0]
        place = "ties" if name in ("_search", "lowest") else f"search {len(searches)}"
        if place != "ties":
            searches.append(place)
        number, end = while_loop(
            lambda carry: condition(carry[1]),
            lambda carry: (carry[0] + 1, body(carry[1])),
            (jnp.int32(0), start),
        )
        jax.debug.callback(lambda n: turns.append((place, int(n))), number)
        return end

    searches: list[str] = []
    with (
        _selection(points),
        mock.patch.object(jax.lax, "while_loop", counting),
    ):
        make = jax.jit(
            lambda s, t, m: jp.masks.make_with_info(s, t, within=m, allocation=allocation)
        )
        out = []
        for sparsity in sparsities:
            turns.clear()
            jax.block_until_ready(make(scores, jnp.float32(sparsity), within))
            jax.effects_barrier()
            total: dict[str, int] = collections.defaultdict(int)
            for place, number in turns:
                total[place] += number
            sample = total[searches[0]] if len(searches) > 1 else 0
            out.append(Passes(sample, total[searches[-1]], total["ties"]))
    return out


def scores_of(weights: int, kind: str, seed: int) -> dict[str, jax.Array]:
    """Magnitudes of normal weights in 4 leaves: "float32", "bfloat16", or "repeated".

    Repeated are float32 of which each value is there 16 times: as among very many weights, no
    threshold has exactly k scores below it.
    """
    number = weights // 4
    leaves = {}
    for i in range(4):
        draw = jax.random.fold_in(jax.random.key(seed), i)
        if kind == "repeated":
            few = jax.random.normal(draw, (number // 16, 1))
            leaf = jnp.broadcast_to(few, (number // 16, 16)).reshape(-1)
        else:
            leaf = jax.random.normal(draw, (number,)).astype(kind)
        leaves[f"{i}/kernel"] = jnp.abs(leaf).reshape(-1, 64)
    return leaves


class Step(NamedTuple):
    """A compiled training step of AdamW; bytes on one device, for each parameter of the network."""

    collectives: dict[str, float]  # results of collectives, by their name
    state: float  # arguments: parameters, moments, mask, batch
    accessed: float  # memory read and written, as the compiler estimates it
    saved: float  # a checkpoint's arrays of all devices together, before compression


def training_step(*, sharded: bool, masked: bool, width: int = 512, layers: int = 4) -> Step:
    """Compiles a training step of a chain of dense layers for all devices of this process."""
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def loss_fn(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        del key  # nothing is drawn
        x = batch
        for layer in params.values():
            x = jnp.tanh(jnp.dot(x, layer["kernel"]))
        return jnp.mean(x**2), (model_state, {})

    def make_optimizer(learning_rate: Any) -> optax.GradientTransformation:
        return optax.adamw(learning_rate)

    rule = jp.training.fully_sharded(mesh) if sharded else None
    step = jp.training.make_train_step(loss_fn, make_optimizer, mesh=mesh, sharding=rule)
    params = {f"layer_{i}": {"kernel": jnp.full((width, width), 0.01)} for i in range(layers)}
    with jax.numpy_dtype_promotion("standard"):  # optax' own AdamW mixes dtypes
        state = jp.training.TrainState.create(
            params, make_optimizer, masked=masked, key=jax.random.key(0)
        )
        batch = step.place_batch(np.ones((64 * mesh.size, width), np.float32))
        lowered = jax.jit(step.compiled).lower(step.place(state), batch, jnp.float32(0.1))
    compiled = lowered.compile()
    number = layers * width**2
    collectives: dict[str, float] = collections.defaultdict(float)
    text, memory, cost = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis()
    assert text is not None
    assert memory is not None
    assert cost is not None
    for line in text.splitlines():
        if call := _CALL.search(line):
            collectives[call[2]] += _bytes(call[1]) / number
    return Step(
        dict(collectives),
        memory.argument_size_in_bytes / number,
        cost["bytes accessed"] / number,
        sum(x.nbytes for x in _portable.to_arrays(state).values()) / number,
    )
