"""Independent runs side by side, one a device, each as if it were alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprune._progress import Line
from jaxprune._tree import PyTree
from jaxprune.training.steps._loop import Metrics, OnChunk, Stop, TrainLoop, join_metrics
from jaxprune.training.steps._state import TrainState, copy

Result = TypeVar("Result")
_AXIS = "runs"


def sweep(
    runs: Sequence[Callable[[TrainLoop], Result]],
    loops: Sequence[TrainLoop],
    *,
    devices: Sequence[Any] | None = None,
    progress: bool = False,
) -> list[Result]:
    """Runs several independent runs at once, each on a device of its own.

    Each run is a function of its training loop: `imp`, `bimp`, `fit`, or code of your own. What
    they train is one program over all devices (`jax.shard_map`, without communication), called when
    every run has asked for training; what they do between, to prune and to evaluate, each does on
    its device. Seeds, data orders, learning rates, sparsities and lengths of phases may differ;
    network, optimizer and batch size are the same. More runs than devices go in turns. Chunks are
    always compiled, which does not suit convolutions on a CPU, see `make_loop`.

    Args:
      runs: ``run(train) -> result``.
      loops: a loop for each, from `make_loop` with one and the same step without a mesh; their
        batch functions are ``jax.tree_util.Partial`` of one function, with arrays of equal shapes.
      devices: devices of this process; all of its own if omitted.
      progress: whether to show a line with the runs that have ended and the steps of all together;
        see `imp`. Leave it out of the runs themselves: their lines would write over each other.

    Returns:
      The results in order; their arrays lie on the devices of the runs.

    Raises:
      ValueError: if the loops do not share a step and a batch function, or their number is another
        than that of the runs.
      Exception: what the first run that failed raised, with its number in a note; after the others
        have ended.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     return jnp.mean((batch @ params["w"]) ** 2), (model_state, {})
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> step = jp.training.make_train_step(loss_fn, sgd)
      >>> batch_at = jax.tree_util.Partial(lambda t: jnp.ones((4, 2)))
      >>> def run(seed, train):
      ...     params = {"w": jax.random.normal(jax.random.key(seed), (2, 2))}
      ...     state = jp.training.TrainState.create(params, sgd, key=jax.random.key(seed))
      ...     return train(state, [0.1] * (seed + 1))[1]["loss"]
      >>> losses = jp.training.sweep(
      ...     [jax.tree_util.Partial(run, seed) for seed in range(2)],
      ...     [jp.training.make_loop(step, batch_at)] * 2,
      ... )
      >>> [loss.shape for loss in losses]
      [(1,), (2,)]
    """
    if len(runs) != len(loops):
        raise ValueError(f"each run has its loop; got {len(runs)} runs and {len(loops)} loops.")
    if not runs:
        return []
    _check_loops(loops)
    devices = list(jax.local_devices() if devices is None else devices)
    results: list[Result] = []
    programs: dict[int, Callable[..., Any]] = {}
    told = _Told(len(runs)) if progress else None
    for first in range(0, len(runs), len(devices)):
        chosen = slice(first, first + len(devices))
        used = devices[: len(runs[chosen])]
        sharding = NamedSharding(Mesh(np.array(used), (_AXIS,)), PartitionSpec(_AXIS))
        if len(used) not in programs:
            programs[len(used)] = _program(loops[0].many, sharding)
        hub = _Hub(loops[chosen], used, sharding, programs[len(used)], first, told)
        results += hub.results(runs[chosen])
    if told is not None:
        told.end()
    return results


def _program(many: Any, sharding: NamedSharding) -> Callable[..., Any]:
    """What each device runs: the chunk of its run, out of and into arrays with a run axis."""

    def of_one(state: TrainState, batch_at: Any, rates: Any, valid: Any = None) -> Any:
        own = jax.tree.map(lambda x: x[0], (state, batch_at, rates, valid))
        return jax.tree.map(lambda x: x[None], many(*own))

    spread = jax.shard_map(
        of_one,
        mesh=sharding.mesh,
        in_specs=sharding.spec,
        out_specs=sharding.spec,
        check_vma=False,
    )
    return jax.jit(spread, donate_argnums=0)


def _check_loops(loops: Sequence[TrainLoop]) -> None:
    step, many = loops[0].step, loops[0].many
    if many is None or step.mesh is not None or not step.traceable:
        raise ValueError(
            "a sweep puts each run on a device of its own: make the loops by make_loop from a step "
            "without a mesh."
        )
    for i, loop in enumerate(loops):
        if loop.step is not step or loop.chunk_steps != loops[0].chunk_steps:
            raise ValueError(f"loop {i} has another step or chunk length than loop 0; share them.")
        is_tree = isinstance(loop.batch_at, jax.tree_util.Partial)
        if not is_tree or _shapes(loop.batch_at) != _shapes(loops[0].batch_at):
            raise ValueError(
                f"the batch function of loop {i} is no jax.tree_util.Partial of the function of "
                "loop 0 with arrays of the same shapes; only their contents may differ."
            )


def _shapes(tree: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(np.shape(x), jnp.result_type(x)) for x in leaves]


class _Request(NamedTuple):
    state: TrainState
    rates: np.ndarray
    on_chunk: OnChunk | None
    stop: Stop | None


class _Told:
    """The line of progress of a sweep: nobody knows how many steps its runs will ask for."""

    def __init__(self, runs: int):
        self._line, self._runs, self._ended, self._steps = Line(None), runs, 0, 0
        self._lock = threading.Lock()  # runs end in threads of their own

    def add(self, *, steps: int = 0, ended: int = 0) -> None:
        with self._lock:
            self._steps += steps
            self._ended += ended
            self._line.show(f"{self._ended} of {self._runs} runs ended", self._steps)

    def end(self) -> None:
        self._line.end(f"{self._runs} runs ended")

    def close(self) -> None:
        self._line.close()


class _Hub:
    """The runs of one turn: a thread each, and the program that they share."""

    def __init__(
        self,
        loops: Sequence[TrainLoop],
        devices: Sequence[Any],
        sharding: NamedSharding,
        program: Callable[..., Any],
        first: int,
        told: _Told | None = None,
    ):
        self._told = told
        self._loops, self._devices, self._first = loops, devices, first
        self._sharding, self._program = sharding, program
        self._chunk_steps = loops[0].chunk_steps
        self._changed = threading.Condition()
        self._asked: dict[int, _Request] = {}
        self._answers: dict[int, Any] = {}
        self._live = set(range(len(loops)))
        self._failed: dict[int, BaseException] = {}
        self._results: dict[int, Any] = {}
        self._idle: dict[int, TrainState] = {}

    def results(self, runs: Sequence[Callable[[TrainLoop], Any]]) -> list[Any]:
        threads = [
            threading.Thread(target=self._one_run, args=(i, run), daemon=True)
            for i, run in enumerate(runs)
        ]
        batches = self._stacked([loop.batch_at for loop in self._loops])
        for thread in threads:
            thread.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._live <= self._asked.keys())
                if not self._live:
                    break
                requests, self._asked = self._asked, {}
            try:
                answers = self._train(requests, batches)
            except BaseException as error:  # of the shared program: every run gets it
                answers = dict.fromkeys(requests, error)
            with self._changed:
                self._answers.update(answers)
                self._changed.notify_all()
        for thread in threads:
            thread.join()
        if self._told is not None and self._failed:
            self._told.close()
        for i, error in sorted(self._failed.items()):
            error.add_note(f"in run {self._first + i} of the sweep")
            raise error
        return [self._results[i] for i in range(len(runs))]

    def _one_run(self, i: int, run: Callable[[TrainLoop], Any]) -> None:
        def ask(
            state: TrainState, rates: np.ndarray, on_chunk: OnChunk | None, stop: Stop | None = None
        ) -> tuple[TrainState, Metrics]:
            with self._changed:
                self._asked[i] = _Request(state, rates, on_chunk, stop)
                self._changed.notify_all()
                self._changed.wait_for(lambda: i in self._answers)
                answer = self._answers.pop(i)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        try:
            with jax.default_device(self._devices[i]):
                self._results[i] = run(self._loops[i]._replace(run=ask))
        except BaseException as error:
            self._failed[i] = error
        with self._changed:
            self._live.discard(i)
            if self._told is not None:
                self._told.add(ended=1)
            self._changed.notify_all()

    def _train(self, requests: dict[int, _Request], batches: PyTree) -> dict[int, Any]:
        """What each run gets: its state and metrics, or what its own hooks raised."""
        n = len(self._loops)
        some = next(iter(requests.values())).state
        for i in range(n):
            if i not in requests and i not in self._idle:  # ended: its device has nothing to do
                self._idle[i] = jax.device_put(copy(some), self._devices[i])
        state = self._stacked(
            [requests[i].state if i in requests else copy(self._idle[i]) for i in range(n)]
        )
        firsts = {i: int(request.state.step) for i, request in requests.items()}
        done: dict[int, list[Metrics]] = {i: [] for i in requests}
        ends = {i: len(request.rates) for i, request in requests.items()}
        failed: dict[int, BaseException] = {}
        pending: tuple[int, np.ndarray, np.ndarray, Any] | None = None

        def hooked(i: int, call: Callable[[], Any]) -> Any:
            """Calls a hook of a run; what it raises ends that run alone."""
            try:
                return call()
            except BaseException as error:
                failed[i], ends[i] = error, 0

        def finish(chunk: tuple[int, np.ndarray, np.ndarray, Any]) -> None:
            at, rates, valid, metrics = chunk
            fetched = jax.device_get(metrics)
            if self._told is not None:
                self._told.add(steps=int(valid.sum()))
            for i, request in requests.items():
                if not valid[i] or i in failed:
                    continue
                rows = {k: np.asarray(m[i, : valid[i]]) for k, m in fetched.items()}
                done[i].append(rows)
                if request.stop is not None and np.isnan(rows["loss"]).any():
                    ends[i] = 0
                if (on_chunk := request.on_chunk) is not None:
                    report = partial(on_chunk, firsts[i] + at, rates[i, : valid[i]], rows)
                    hooked(i, report)

        at = 0
        while any(at < end for end in ends.values()):
            for i, request in requests.items():
                stop = request.stop
                if at < ends[i] and stop is not None and hooked(i, partial(stop, at)):
                    ends[i] = at
            rates = np.zeros((n, self._chunk_steps), np.float32)
            valid = np.zeros((n,), np.int32)
            for i, request in requests.items():
                part = request.rates[at : max(at, min(at + self._chunk_steps, ends[i]))]
                rates[i, : len(part)], valid[i] = part, len(part)
            numbers = (rates,) if np.all(valid == self._chunk_steps) else (rates, valid)
            state, metrics = self._program(state, batches, *jax.device_put(numbers, self._sharding))
            if pending is not None:
                finish(pending)  # while the next chunk runs
            pending = (at, rates, valid, metrics)
            at += self._chunk_steps
        if pending is not None:
            finish(pending)
        states = self._unstacked(state)
        return {
            i: failed[i] if i in failed else (states[i], join_metrics(done[i])) for i in requests
        }

    def _stacked(self, trees: Sequence[PyTree]) -> PyTree:
        """One tree of arrays with a run axis, the part of each run on its device."""

        def stack(*leaves: Any) -> jax.Array:
            parts = [
                jax.device_put(jnp.asarray(leaf)[None], device)
                for leaf, device in zip(leaves, self._devices, strict=True)
            ]
            shape = (len(parts), *parts[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._sharding, parts)

        return jax.tree.map(stack, *trees)

    def _unstacked(self, tree: PyTree) -> list[PyTree]:
        place = {device: i for i, device in enumerate(self._devices)}
        leaves, structure = jax.tree.flatten(tree)
        parts: list[list[Any]] = [[] for _ in self._devices]
        for leaf in leaves:
            for shard in leaf.addressable_shards:
                parts[place[shard.device]].append(shard.data[0])
        return [jax.tree.unflatten(structure, part) for part in parts]
