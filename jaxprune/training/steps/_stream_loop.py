"""Many steps on batches that the host brings: data that do not fit on the devices."""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxprune._tree import PyTree
from jaxprune.training.steps._loop import (
    OnChunk,
    TrainLoop,
    check_chunk_steps,
    in_chunks,
    steps_done,
)
from jaxprune.training.steps._sharding import settle
from jaxprune.training.steps._state import TrainState
from jaxprune.training.steps._step import TrainStep

_PATIENCE = 30  # seconds


def make_stream_loop(
    step: TrainStep,
    stream: Callable[[int], Iterator[PyTree]],
    *,
    prefetch: int = 2,
    chunk_steps: int = 50,
    on_chunk: OnChunk | None = None,
) -> TrainLoop:
    """Builds ``train(state, learning_rates) -> (state, metrics)`` on streamed batches.

    The contract of `make_loop`, for data that the host reads while the devices compute. A thread
    asks for the next batches and starts their way to the devices ahead of the steps that need them.

    Args:
      step: a step from `make_train_step` or `make_pmap_train_step`.
      stream: ``stream(first_step)`` gives an iterator of batches, beginning with that of step
        ``first_step``; the same step gives the same batch, wherever one begins. With several
        processes each brings its own rows of every batch. It is called again only where training
        does not go on where it stopped.
      prefetch: batches on the devices ahead of the one that is trained on.
      chunk_steps: steps after which metrics are fetched and reported.
      on_chunk: as for `make_loop`.

    Returns:
      The loop; its ``close()`` ends the stream.

    Raises:
      ValueError: if ``prefetch`` or ``chunk_steps`` is below 1; in training, if the stream ends
        early.

    Example:
      >>> import jax, optax
      >>> import itertools, numpy as np
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     return jnp.mean((batch @ params["w"]) ** 2), (model_state, {})
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> step = jp.training.make_train_step(loss_fn, sgd)
      >>> stream = lambda first: (np.full((4, 2), t, np.float32) for t in itertools.count(first))
      >>> train = jp.training.make_stream_loop(step, stream)
      >>> state = jp.training.TrainState.create(
      ...     {"w": jnp.ones((2, 2))}, sgd, key=jax.random.key(0)
      ... )
      >>> state, metrics = train(state, [0.1, 0.1, 0.05])
      >>> float(metrics["loss"][0])
      0.0
    """
    check_chunk_steps(chunk_steps)
    if prefetch < 1:
        raise ValueError(f"prefetch is at least 1 batch ahead; got {prefetch}.")
    source = _Source(stream, step.place_batch, prefetch)

    def dispatch_chunk(state: TrainState, rates: np.ndarray, first: int) -> tuple[TrainState, Any]:
        del first  # the source knows where it stands
        rows = []
        for rate in rates:
            state, metrics = step.compiled(state, source.next(), rate)
            rows.append(settle(metrics))
        return state, rows

    chunks = in_chunks(step, dispatch_chunk, chunk_steps)

    def run(state: TrainState, rates: np.ndarray, *hooks: Any) -> tuple[TrainState, Any]:
        source.seek(steps_done(state))
        return chunks(state, rates, *hooks)

    return TrainLoop(step, step.compiled, run, on_chunk, stream, chunk_steps, close=source.close)


class _Source:
    """Batches on the devices, fetched ahead by a thread; it stays open from call to call."""

    def __init__(
        self,
        stream: Callable[[int], Iterator[PyTree]],
        place: Callable[[PyTree], PyTree],
        prefetch: int,
    ):
        self._stream, self._place, self._prefetch = stream, place, prefetch
        self._at: int | None = None
        self._thread: threading.Thread | None = None
        self._ahead: queue.Queue[Any] = queue.Queue()
        self._closed = threading.Event()

    def seek(self, step: int) -> None:
        """Makes the batch of ``step`` the next one."""
        if self._at == step:
            return
        self.close()
        batches = self._stream(step)
        self._ahead, self._closed = queue.Queue(self._prefetch), threading.Event()
        # The thread knows the queue and not this object: a loop that nobody closes ends it, too.
        weakref.finalize(self, self._closed.set)
        arguments = (batches, self._place, self._ahead, self._closed)
        self._thread = threading.Thread(target=_fetch, args=arguments, daemon=True)
        self._thread.start()
        self._at = step

    def close(self) -> None:
        """Ends the stream that is open, if there is one."""
        self._closed.set()
        self._at = None
        if self._thread is not None:
            self._thread.join(_PATIENCE)  # it may be waiting for the disk
            if self._thread.is_alive():
                warnings.warn(
                    f"a stream did not end within {_PATIENCE} s; left behind.", stacklevel=2
                )
            self._thread = None

    def next(self) -> PyTree:
        """The batch of the next step.

        Raises:
          ValueError: if the stream has ended.
          Exception: whatever the stream raised.
        """
        kind, value = self._ahead.get()
        if kind == "batch":
            assert self._at is not None
            self._at += 1
            return value
        step, self._at = self._at, None
        if kind == "error":
            raise value
        raise ValueError(
            f"the stream of batches ended before step {step}. stream(first_step) goes on for as "
            "long as it is asked; repeat the data."
        )


def _fetch(
    batches: Iterator[PyTree],
    place: Callable[[PyTree], PyTree],
    ahead: queue.Queue[Any],
    closed: threading.Event,
) -> None:
    """Puts batches on the devices and into a queue, until it is told to end."""

    def put(kind: str, value: Any) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ahead.put((kind, value), timeout=0.1)
                break

    try:
        for batch in batches:
            put("batch", place(batch))
            if closed.is_set():
                return
        put("end", None)
    except BaseException as error:  # handed to the one who asks for the batch
        put("error", error)
    finally:
        getattr(batches, "close", lambda: None)()  # ends the processes of a loader
