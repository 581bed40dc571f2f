"""Images a second of a training loop, on a stream or on the same set in memory."""

import dataclasses
import pathlib
import statistics
import time
from typing import Any

import numpy as np

from experiments.bench.loading.throughput import Throughput
from experiments.config import Config
from experiments.setup import build

_STEPS = 20  # of a call of the loop; a chunk of it


def measure(
    name: str,
    *,
    model: str,
    data_dir: pathlib.Path | None,
    batch_size: int,
    preprocess: str,
    workers: int | None,
    seed: int,
    repeats: int,
    min_seconds: float,
) -> dict[str, Any]:
    """The row of a model trained on a set.

    Args:
      name: the set.
      model: the network.
      data_dir: where prepared sets lie.
      batch_size: images a batch.
      preprocess: what is done to streamed images; in memory it is what the set is known for.
      workers: processes that read; `None` for the set in memory.
      seed: of weights and order.
      repeats: timed stretches.
      min_seconds: how long each lasts at least, in whole calls of the loop.

    Raises:
      ValueError, FileNotFoundError: as `experiments.setup.build`.
    """
    config = Config(data=name, data_dir=data_dir, model=model, batch_size=batch_size, seed=seed)
    if workers is not None:
        config = dataclasses.replace(config, stream=True, workers=workers, preprocess=preprocess)
    parts = build(config)
    rates = np.full(_STEPS, 1e-3, np.float32)
    try:
        begin = time.perf_counter()
        state, _ = parts.train(parts.state, rates)
        first_seconds = time.perf_counter() - begin
        speeds, images = [], 0
        for _ in range(repeats):
            begin, steps = time.perf_counter(), 0
            while (seconds := time.perf_counter() - begin) < min_seconds or not steps:
                state, _ = parts.train(state, rates)
                steps += _STEPS
            seconds = time.perf_counter() - begin
            speeds.append(steps * batch_size / seconds)
            images += steps * batch_size
    finally:
        parts.train.close()
    found = Throughput(
        median=statistics.median(speeds),
        slowest=min(speeds),
        fastest=max(speeds),
        images=images,
        first_seconds=first_seconds,
    )
    where = "in memory" if workers is None else "streamed"
    row = {"what": f"{model} trained on {name}, {where}", "preprocess": preprocess}
    return {**row, "workers": workers, **dataclasses.asdict(found)}
