"""Many steps: chunks of fixed length, so that no remainder compiles anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import PyTree
from jaxprune.training.steps._sharding import everywhere, put, settle
from jaxprune.training.steps._state import TrainState
from jaxprune.training.steps._step import TrainStep

Metrics: TypeAlias = dict[str, np.ndarray]
OnChunk: TypeAlias = Callable[[int, np.ndarray, Metrics], None]
Stop: TypeAlias = Callable[[int], bool]


class TrainLoop(NamedTuple):
    """A training loop over a batch function; call it with a state and learning rates.

    Attributes:
      step: the step it repeats.
      compiled: the jitted function it dispatches.
      run: ``run(state, learning_rates, on_chunk, stop=None) -> (state, metrics)``.
      on_chunk: told of every finished chunk, or `None`.
      batch_at: the batch function.
      chunk_steps: steps a chunk.
      many: the loop over a chunk, not compiled: ``many(state, batch_at, rates, valid=None)``, of
        the first ``valid`` rates or all; `None` for streams and steps by `jax.pmap`.
      close: ends what a stream has opened; call it when no more is to be trained.
    """

    step: TrainStep
    compiled: Callable[..., Any]
    run: Callable[..., tuple[TrainState, Metrics]]
    on_chunk: OnChunk | None
    batch_at: Any
    chunk_steps: int
    many: Callable[..., Any] | None = None
    close: Callable[[], None] = lambda: None

    def __call__(
        self, state: TrainState, learning_rates: Any, *, stop: Stop | None = None
    ) -> tuple[TrainState, Metrics]:
        """Trains one step a learning rate. ``state`` is donated: use the one returned.

        Args:
          state: where to start; batch t is ``batch_at(state.step + t)``.
          learning_rates: float array ``[steps]``.
          stop: asked before every chunk, with the number of steps done in this call, whether to
            end here. Fewer steps are then done than there are rates; the metrics tell how many. If
            given, a loss that is NaN ends it, too.

        Returns:
          The state, and each metric as a float array ``[steps]`` on the host.

        Raises:
          ValueError: if the learning rates are not a one-dimensional array of finite numbers.
        """
        rates = np.asarray(learning_rates, np.float32)
        if rates.ndim != 1 or not np.all(np.isfinite(rates)):
            raise ValueError(
                "learning_rates is a one-dimensional array of finite numbers, one a step; got "
                f"shape {rates.shape}" + (", not all finite." if rates.ndim == 1 else ".")
            )
        if stop is None:
            return self.run(state, rates, self.on_chunk)
        return self.run(state, rates, self.on_chunk, stop)


def make_loop(
    step: TrainStep,
    batch_at: Callable[[jax.Array], PyTree],
    *,
    chunk_steps: int = 50,
    compile_chunks: bool | None = None,
    on_chunk: OnChunk | None = None,
) -> TrainLoop:
    """Builds ``train(state, learning_rates) -> (state, metrics)`` from a step and a batch function.

    A compiled chunk is a loop of ``chunk_steps`` steps, known to the compiler: a GPU then runs it
    without asking the host after every step. What a phase leaves over is done by a second program
    for any number of steps. While a chunk runs, the metrics of the one before it are fetched and
    reported: the devices do not wait for the host.

    Args:
      step: a step from `make_train_step` or `make_pmap_train_step`.
      batch_at: pure function from the step number (int32 scalar) to a batch. Pass large arrays as
        ``jax.tree_util.Partial(f, arrays)``: they then enter as arguments and stay on the devices,
        where a plain closure bakes them into the program as constants. For data that do not fit
        there see `make_stream_loop`.
      chunk_steps: steps a chunk.
      compile_chunks: whether the loop over a chunk is compiled or dispatched step by step.
        Default: compiled, but not on CPU, where XLA runs convolutions inside a compiled loop on
        one thread (2 to 8 times slower). Steps by `jax.pmap` are dispatched one by one.
      on_chunk: called as ``on_chunk(first_step, learning_rates, metrics)`` with arrays
        ``[steps of the chunk]`` on the host after every chunk.

    Returns:
      The loop.

    Raises:
      ValueError: if ``chunk_steps`` is below 1, or chunks of a step by `jax.pmap` are to be
        compiled.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     return jnp.mean((batch @ params["w"]) ** 2), (model_state, {})
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> step = jp.training.make_train_step(loss_fn, sgd)
      >>> train = jp.training.make_loop(step, lambda t: jnp.ones((4, 2)))
      >>> state = jp.training.TrainState.create(
      ...     {"w": jnp.ones((2, 2))}, sgd, key=jax.random.key(0)
      ... )
      >>> state, metrics = train(state, [0.1, 0.1, 0.05])
      >>> int(state.step), metrics["loss"].shape
      (3, (3,))
    """
    check_chunk_steps(chunk_steps)
    if compile_chunks and not step.traceable:
        raise ValueError("a step by jax.pmap cannot be compiled into chunks; leave it out.")
    if compile_chunks is None:
        compile_chunks = step.traceable and jax.default_backend() != "cpu"
    # A Partial is a pytree: its arrays are arguments. A plain function is static.
    is_tree = isinstance(batch_at, jax.tree_util.Partial)
    if is_tree and step.mesh is not None:
        batch_at = put(batch_at, everywhere(step.mesh))
    if not step.traceable:
        return _by_pmap(step, batch_at, chunk_steps, on_chunk)

    # The key of a batch is the state's own step counter, so a resumed run needs no iterator state.
    def one(state: TrainState, batch_fn: Any, rate: jax.Array) -> tuple[TrainState, Any]:
        return step.compiled(state, batch_fn(state.step), rate)

    def many(
        state: TrainState, batch_fn: Any, rates: jax.Array, valid: jax.Array | None = None
    ) -> Any:
        shapes = jax.eval_shape(lambda s: one(s, batch_fn, rates[0])[1], state)
        slots = jax.tree.map(lambda m: jnp.zeros((chunk_steps, *m.shape), m.dtype), shapes)

        def body(i: jax.Array, carry: Any) -> Any:
            state, slots = carry
            state, metrics = one(state, batch_fn, rates[i])
            return state, jax.tree.map(lambda s, m: s.at[i].set(m), slots, metrics)

        # A number that is known here makes it a scan.
        end = chunk_steps if valid is None else valid
        return jax.lax.fori_loop(0, end, body, (state, slots))

    jit = partial(jax.jit, donate_argnums=0, static_argnums=() if is_tree else 1)
    compiled = jit(many if compile_chunks else one)

    def run_chunk(state: TrainState, rates: np.ndarray, first: int) -> tuple[TrainState, Any]:
        del first  # the state knows
        slots = np.zeros((chunk_steps,), np.float32)
        slots[: len(rates)] = rates
        # Numbers of the host, not of a device: with several processes those would be local ones.
        valid = None if len(rates) == chunk_steps else np.int32(len(rates))
        state, metrics = compiled(state, batch_at, slots, valid)
        return state, settle(metrics)

    def dispatch_chunk(state: TrainState, rates: np.ndarray, first: int) -> tuple[TrainState, Any]:
        del first
        rows = []
        for rate in rates:
            state, metrics = compiled(state, batch_at, rate)
            rows.append(settle(metrics))
        return state, rows

    run = in_chunks(step, run_chunk if compile_chunks else dispatch_chunk, chunk_steps)
    return TrainLoop(step, compiled, run, on_chunk, batch_at, chunk_steps, many)


def _by_pmap(
    step: TrainStep, batch_at: Any, chunk_steps: int, on_chunk: OnChunk | None
) -> TrainLoop:
    is_tree = isinstance(batch_at, jax.tree_util.Partial)
    make_batch = jax.jit(lambda f, t: f(t), static_argnums=() if is_tree else 0)

    def dispatch_chunk(state: TrainState, rates: np.ndarray, first: int) -> tuple[TrainState, Any]:
        rows = []
        for i, rate in enumerate(rates):
            state, metrics = step(state, make_batch(batch_at, np.int32(first + i)), rate)
            rows.append(metrics)
        return state, rows

    run = in_chunks(step, dispatch_chunk, chunk_steps)
    return TrainLoop(step, step.compiled, run, on_chunk, batch_at, chunk_steps)


def in_chunks(
    step: TrainStep,
    run_chunk: Callable[[TrainState, np.ndarray, int], tuple[TrainState, Any]],
    chunk_steps: int,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds ``run`` of a `TrainLoop`.

    Args:
      step: the step; it places the state at the start and gathers it at the end.
      run_chunk: ``run_chunk(state, rates, first_step) -> (state, metrics)``, which does not wait.
        Metrics are arrays ``[chunk_steps or more]``, or a list of the metrics of each step.
      chunk_steps: steps a chunk.
    """

    def fetch(metrics: Any, valid: int) -> Metrics:
        metrics = jax.device_get(metrics)
        if isinstance(metrics, list):
            metrics = jax.tree.map(lambda *xs: np.stack(xs), *metrics)
        return {name: np.asarray(m)[:valid] for name, m in metrics.items()}

    def run(
        state: TrainState,
        rates: np.ndarray,
        on_chunk: OnChunk | None,
        stop: Stop | None = None,
    ) -> tuple[TrainState, Metrics]:
        done: list[Metrics] = []
        pending: tuple[int, np.ndarray, Any] | None = None
        first = steps_done(state)
        state = step.place(state)

        def finish(chunk: tuple[int, np.ndarray, Any]) -> None:
            start, chunk_rates, metrics = chunk
            done.append(fetch(metrics, len(chunk_rates)))
            if on_chunk is not None:
                on_chunk(start, chunk_rates, done[-1])

        for i in range(0, len(rates), chunk_steps):
            if stop is not None and stop(i):
                break
            chunk_rates = rates[i : i + chunk_steps]
            state, metrics = run_chunk(state, chunk_rates, first + i)
            if pending is not None:
                finish(pending)
            pending = (first + i, chunk_rates, metrics)
            if stop is not None and done and np.isnan(done[-1]["loss"]).any():
                break
        if pending is not None:
            finish(pending)
        return step.gather(state), join_metrics(done)

    return run


def join_metrics(chunks: Sequence[Metrics]) -> Metrics:
    """Joins the metrics of consecutive chunks of steps.

    Args:
      chunks: of each chunk, arrays ``[steps of the chunk]`` by name; empty where no step was made.

    Returns:
      Arrays ``[all steps]`` by name.
    """
    made = [chunk for chunk in chunks if chunk]
    names = made[0] if made else {}
    return {name: np.concatenate([chunk[name] for chunk in made]) for name in names}


def steps_done(state: TrainState) -> int:
    """The step counter of a state, replicated or not."""
    return int(np.ravel(np.asarray(state.step))[0])


def check_chunk_steps(chunk_steps: int) -> None:
    """Raises unless a chunk has at least one step."""
    if chunk_steps < 1:
        raise ValueError(f"chunk_steps is at least 1 step; got {chunk_steps}.")
