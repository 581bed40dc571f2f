"""The loops in JAX: ours under a mask, and plain dense ones written by hand."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments import models
from experiments.bench.training.problems import LEARNING_RATE, Problem, make_optimizer
from jaxprune.training import TrainLoop, TrainState

CHUNK_STEPS = 50
BY_STEP, BY_CHUNK = "step by step", f"compiled chunks of {CHUNK_STEPS}"


class Loop(NamedTuple):
    """A loop that is ready to train."""

    # ``run(carry, steps) -> carry``; returns when the metrics of all steps are on the host
    run: Callable[[Any, int], Any]
    carry: Any  # what the first call gets; it may be donated


def runs_chunks_well(problem: Problem) -> bool:
    """False on CPUs for convolutions, which XLA runs on one thread inside a compiled loop there."""
    convolutions = any(leaf.ndim > 2 for leaf in jax.tree.leaves(problem.params))
    return jax.default_backend() != "cpu" or not convolutions


def masked_state(problem: Problem, sparsity: float) -> TrainState:
    """The state of a run under a fixed mask of the smallest magnitudes."""
    return TrainState.create(
        problem.params,
        make_optimizer,
        model_state=problem.model_state,
        mask=jp.masks.make(jp.scores.magnitude(problem.params), sparsity),
        key=jax.random.key(problem.seed),
    )


def train_loop(problem: Problem) -> TrainLoop:
    """Our loop, built as a run builds it."""
    step = jp.training.make_train_step(models.make_loss_fn(problem.model), make_optimizer)
    return jp.training.make_loop(
        step,
        problem.batch_at,
        chunk_steps=CHUNK_STEPS,
        compile_chunks=runs_chunks_well(problem),
    )


def ours(problem: Problem, loop: TrainLoop, sparsity: float) -> Loop:
    """Our loop on a masked state."""

    def run(state: TrainState, steps: int) -> TrainState:
        return loop(state, np.full(steps, LEARNING_RATE, np.float32))[0]

    return Loop(run, masked_state(problem, sparsity))


def dense(problem: Problem, *, chunks: bool) -> Loop:
    """What one writes by hand for one dense run: no mask, the learning rate a constant.

    Steps run in compiled loops (``chunks``) or are dispatched one by one.
    """
    loss_fn, tx = models.make_loss_fn(problem.model), make_optimizer(LEARNING_RATE)
    key = jax.random.key(problem.seed)

    def step(carry: Any, batch_at: Any) -> tuple[Any, Any]:
        t, params, opt_state, model_state = carry
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (model_state, metrics)), grads = grad_fn(
            params, model_state, batch_at(t), jax.random.fold_in(key, t)
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        return (t + 1, optax.apply_updates(params, updates), opt_state, model_state), metrics

    def chunk(carry: Any, batch_at: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda carry, _: step(carry, batch_at), carry, length=CHUNK_STEPS)

    # A copy: the first step deletes what it is given.
    params, model_state = jax.tree.map(jnp.copy, (problem.params, problem.model_state))
    carry = (jnp.zeros((), jnp.int32), params, tx.init(params), model_state)
    one = many = jax.jit(step, donate_argnums=0)
    if chunks:
        many = jax.jit(chunk, donate_argnums=0).lower(carry, problem.batch_at).compile()

    def run(carry: Any, steps: int) -> Any:
        whole, rest = divmod(steps, CHUNK_STEPS) if chunks else (0, steps)
        rows = []
        for compiled in [many] * whole + [one] * rest:
            carry, metrics = compiled(carry, problem.batch_at)
            rows.append(metrics)
        jax.device_get(rows)
        return carry

    return Loop(run, carry)


def call(loop: Loop, steps: int) -> tuple[float, Loop]:
    """Seconds of some steps, and the loop as it goes on."""
    begin = time.perf_counter()
    carry = jax.block_until_ready(loop.run(loop.carry, steps))
    return time.perf_counter() - begin, loop._replace(carry=carry)


def check_sparse(state: TrainState, weights: int, sparsity: float) -> None:
    """Raises unless the times are those of a network as sparse as it was to be."""
    wanted = round(sparsity * weights)
    zeros = sum(
        0 if m is None else int(((w == 0) & ~m).sum())
        for m, w in zip(
            jax.tree.leaves(state.mask, is_leaf=lambda x: x is None),
            jax.tree.leaves(state.params),
            strict=True,
        )
    )
    if zeros != wanted:
        raise RuntimeError(
            f"after the timed steps {zeros:,} pruned weights are zero, and {wanted:,} were to be. "
            "No time of it is reported."
        )
