"""Dense networks that many runs begin with: trained once, kept in the folder of the sweep."""

from __future__ import annotations

import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.reports import written_whole
from experiments.setup import Dense, Setup
from jaxprune.training import TrainState


def train_dense(
    name: str,
    folder: pathlib.Path,
    parts: Setup,
    steps: int,
    snapshots: Iterable[int],
    *,
    every: int,
    stop: Callable[[], bool],
) -> Dense | None:
    """Trains a dense network, or goes on with one that was interrupted, and keeps it.

    Args:
      name: of its settings.
      folder: where its states lie.
      parts: of one of the runs.
      steps: training steps.
      snapshots: the steps whose states are kept, too, for weight rewinding.
      every: steps between two states that are kept for an interruption.
      stop: asked between stretches of steps whether to end; what was trained is kept.

    Returns:
      The network; `None` if it was asked to end.

    Raises:
      FloatingPointError: if the loss becomes NaN.
      OSError: if a state cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sorted({*snapshots, steps})
    state, done = parts.state, 0
    for at in sorted(_held(folder), reverse=True):
        found = _read(folder, at, parts.state)
        if found is not None and at <= steps:
            state, done = found, at
            break
    # As imp reads them: LRW over the whole of pretraining is pretraining itself.
    lengths = {"pretraining_steps": steps, "retraining_steps": steps}
    rates = np.asarray(jp.schedules.lrw(parts.pretraining, **lengths)(np.arange(steps)))
    while done < steps:
        if stop():
            return None
        end = min([s for s in wanted if s > done] + [done + every - done % every])
        state, metrics = parts.train(state, rates[done:end])
        if np.isnan(metrics["loss"]).any():
            at = done + int(np.argmax(np.isnan(metrics["loss"])))
            raise FloatingPointError(
                f"dense training diverged: the loss is NaN at step {at}. Lower learning_rate."
            )
        _log(folder, done, metrics)
        _write(folder, end, state)
        for at in _held(folder):
            if at < end and at not in wanted:
                _file(folder, at).unlink(missing_ok=True)
        done = end
    # An earlier sweep may not have asked for all of them.
    kept = {at: _read(folder, at, parts.state) for at in wanted[:-1]}
    if any(found is None for found in kept.values()):
        for at in _held(folder):
            _file(folder, at).unlink(missing_ok=True)
        return train_dense(name, folder, parts, steps, snapshots, every=every, stop=stop)
    return Dense(name, state, {at: found for at, found in kept.items() if found is not None})


def is_trained(folder: pathlib.Path, steps: int, snapshots: Iterable[int]) -> bool:
    """Whether all states that are wanted lie there."""
    return {*snapshots, steps} <= set(_held(folder))


def _file(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder / f"state-{step}.npz"


def _held(folder: pathlib.Path) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in folder.glob("state-*.npz")]


def _write(folder: pathlib.Path, step: int, state: TrainState) -> None:
    arrays = [np.asarray(_plain(x)) for x in jax.tree.leaves(state)]
    checksum = _checksum(arrays)
    with written_whole(_file(folder, step)) as fresh, fresh.open("wb") as file:
        named: dict[str, Any] = {f"leaf {i}": x for i, x in enumerate(arrays)}
        np.savez(file, checksum=np.uint32(checksum), **named)


def _read(folder: pathlib.Path, step: int, like: TrainState) -> TrainState | None:
    """A state that was kept; `None` if it is not there, or damaged."""
    leaves, treedef = jax.tree.flatten(like)
    try:
        with np.load(_file(folder, step)) as file:
            arrays = [file[f"leaf {i}"] for i in range(len(leaves))]
            if len(file.files) != len(leaves) + 1 or int(file["checksum"]) != _checksum(arrays):
                return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    shapes = [(x.shape, x.dtype) for x in map(_plain, leaves)]
    if [(x.shape, x.dtype) for x in arrays] != shapes:
        return None
    return treedef.unflatten([_like(x, leaf) for x, leaf in zip(arrays, leaves, strict=True)])


def _checksum(arrays: list[np.ndarray]) -> int:
    value = 0
    for x in arrays:
        value = zlib.crc32(np.ascontiguousarray(x).tobytes(), value)
    return value


def _plain(x: jax.Array) -> jax.Array:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def _like(x: np.ndarray, leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(leaf))
    return jax.device_put(x, leaf.sharding)


def _log(folder: pathlib.Path, first: int, metrics: dict[str, np.ndarray]) -> None:
    """One line a stretch of steps; a stretch that is done again has a second one."""
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    row = {"first_step": first, "steps": len(metrics["loss"]), **means}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
