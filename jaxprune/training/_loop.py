"""Many steps: chunks of fixed length, so that no remainder compiles anew."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import PyTree
from jaxprune.training._state import TrainState
from jaxprune.training._step import TrainStep

Metrics: TypeAlias = dict[str, np.ndarray]
OnChunk: TypeAlias = Callable[[int, np.ndarray, Metrics], None]


class TrainLoop(NamedTuple):
    """A training loop over a batch function; call it with a state and learning rates.

    Attributes:
      step: the step it repeats.
      compiled: the jitted function it dispatches.
      run: ``run(state, learning_rates, on_chunk) -> (state, metrics)``.
      on_chunk: told of every finished chunk, or `None`.
    """

    step: TrainStep
    compiled: Callable[..., Any]
    run: Callable[..., tuple[TrainState, Metrics]]
    on_chunk: OnChunk | None

    def __call__(self, state: TrainState, learning_rates: Any) -> tuple[TrainState, Metrics]:
        """Trains one step a learning rate. ``state`` is donated: use the one returned.

        Args:
          state: where to start; batch t is ``batch_at(state.step + t)``.
          learning_rates: float array ``[steps]``.

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
        return self.run(state, rates, self.on_chunk)


def make_loop(
    step: TrainStep,
    batch_at: Callable[[jax.Array], PyTree],
    *,
    chunk_steps: int = 50,
    compile_chunks: bool | None = None,
    on_chunk: OnChunk | None = None,
) -> TrainLoop:
    """Builds ``train(state, learning_rates) -> (state, metrics)`` from a step and a batch function.

    A chunk is a compiled loop over ``chunk_steps`` slots that runs only the valid ones, so a phase
    of any length uses the one compilation. While a chunk runs, the metrics of the one before it
    are fetched and reported.

    Args:
      step: a step from `make_train_step`.
      batch_at: pure function from the step number (int32 scalar) to a batch. Pass large arrays as
        ``jax.tree_util.Partial(f, arrays)``: they then enter as arguments and stay on the device,
        where a plain closure bakes them into the program as constants.
      chunk_steps: steps a chunk.
      compile_chunks: whether the loop over a chunk is compiled or dispatched step by step.
        Default: compiled, but not on CPU, where XLA runs convolutions inside a compiled loop on
        one thread (2 to 8 times slower).
      on_chunk: called as ``on_chunk(first_step, learning_rates, metrics)`` with arrays
        ``[steps of the chunk]`` on the host after every chunk.

    Returns:
      The loop.

    Raises:
      ValueError: if ``chunk_steps`` is below 1.

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
    if chunk_steps < 1:
        raise ValueError(f"chunk_steps is at least 1 step; got {chunk_steps}.")
    if compile_chunks is None:
        compile_chunks = jax.default_backend() != "cpu"

    # The key of a batch is the state's own step counter, so a resumed run needs no iterator state.
    def one(state: TrainState, batch_fn: Any, rate: jax.Array) -> tuple[TrainState, Any]:
        return step.compiled(state, batch_fn(state.step), rate)

    def many(state: TrainState, batch_fn: Any, rates: jax.Array, valid: jax.Array) -> Any:
        shapes = jax.eval_shape(lambda s: one(s, batch_fn, rates[0])[1], state)
        slots = jax.tree.map(lambda m: jnp.zeros((chunk_steps, *m.shape), m.dtype), shapes)

        def body(i: jax.Array, carry: Any) -> Any:
            state, slots = carry
            state, metrics = one(state, batch_fn, rates[i])
            return state, jax.tree.map(lambda s, m: s.at[i].set(m), slots, metrics)

        return jax.lax.fori_loop(0, valid, body, (state, slots))

    # A Partial is a pytree: its arrays are arguments. A plain function is static.
    is_tree = isinstance(batch_at, jax.tree_util.Partial)
    jit = partial(jax.jit, donate_argnums=0, static_argnums=() if is_tree else 1)
    compiled = jit(many if compile_chunks else one)

    def run_chunk(state: TrainState, rates: np.ndarray) -> tuple[TrainState, Any]:
        if not compile_chunks:
            rows = []
            for rate in rates:
                state, metrics = compiled(step.place(state), batch_at, jnp.float32(rate))
                rows.append(metrics)
            return state, rows
        slots = np.zeros((chunk_steps,), np.float32)
        slots[: len(rates)] = rates
        valid = jnp.int32(len(rates))
        return compiled(step.place(state), batch_at, jnp.asarray(slots), valid)

    def fetch(metrics: Any, valid: int) -> Metrics:
        if not compile_chunks:
            metrics = jax.tree.map(lambda *xs: np.stack(xs), *jax.device_get(metrics))
        return {name: np.asarray(m)[:valid] for name, m in metrics.items()}

    def run(
        state: TrainState, rates: np.ndarray, on_chunk: OnChunk | None
    ) -> tuple[TrainState, Metrics]:
        done: list[Metrics] = []
        pending: tuple[int, np.ndarray, Any] | None = None
        first = int(state.step)

        def finish(chunk: tuple[int, np.ndarray, Any]) -> None:
            start, chunk_rates, metrics = chunk
            done.append(fetch(metrics, len(chunk_rates)))
            if on_chunk is not None:
                on_chunk(start, chunk_rates, done[-1])

        for i in range(0, len(rates), chunk_steps):
            chunk_rates = rates[i : i + chunk_steps]
            state, metrics = run_chunk(state, chunk_rates)
            if pending is not None:
                finish(pending)
            pending = (first + i, chunk_rates, metrics)
        if pending is not None:
            finish(pending)
        names = done[0] if done else {}
        return state, {name: np.concatenate([d[name] for d in done]) for name in names}

    return TrainLoop(step, compiled, run, on_chunk)
