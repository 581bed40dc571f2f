"""The optimizers of the benchmark of training steps: one, and what this library makes of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from experiments.bench.overhead.problems import Problem

DENSE, FIXED_MASK, GMP, RIGL = "dense", "fixed_mask", "gmp", "rigl"
METHODS = (FIXED_MASK, GMP, RIGL)

# Steps between mask updates: more than are ever timed.
_INTERVAL, _UPDATES = 1_000_000, 10


class Carry(NamedTuple):
    """What a training step takes and returns."""

    params: Any
    model_state: Any
    opt_state: Any


class Start(NamedTuple):
    """An optimizer and where the timed steps begin."""

    tx: optax.GradientTransformation  # the optimizer
    opt_state: Any  # a state from which no mask update is due for a million steps
    due: Any  # a state whose next step updates the mask, `None` for optimizers that have none


def make(name: str, inner: str, params: Any, sparsity: float) -> Start:
    """Makes one of the optimizers.

    Args:
      name: `DENSE` or one of `METHODS`.
      inner: "sgd" (with Nesterov momentum and weight decay) or "adamw".
      params: dense parameters.
      sparsity: the fraction removed, in (0, 1).

    Returns:
      The optimizer with its states. `get_mask` of a state is the mask at ``sparsity``, or, before
      a mask update, the one that it starts from.
    """
    tx: Any = optax.adamw(1e-4)
    if inner == "sgd":
        sgd = optax.sgd(1e-3, momentum=0.9, nesterov=True)
        tx = optax.chain(optax.add_decayed_weights(1e-4), sgd)
    if name == DENSE:
        return Start(tx, tx.init(params), None)
    scores = jp.scores.magnitude(params)
    if name == FIXED_MASK:
        tx = jp.transforms.fixed_mask(tx, jp.masks.make(scores, sparsity))
        return Start(tx, tx.init(params), None)
    total = _INTERVAL * _UPDATES
    if name == GMP:
        tx = jp.transforms.gmp(tx, sparsity, total_steps=total, interval=_INTERVAL)
        steps, targets = jp.schedules.gmp_targets(sparsity, total_steps=total, interval=_INTERVAL)
        state = tx.init(params)
        mask, before = (jp.masks.make(scores, s) for s in (targets[-1], targets[-2]))
        due = _at_step(jp.transforms.set_mask(state, before), steps[-1] - 1)
        return Start(tx, _at_step(jp.transforms.set_mask(state, mask), steps[-1]), due)
    key = jax.random.key(0)
    tx = jp.transforms.rigl(tx, sparsity, key=key, total_steps=total, interval=_INTERVAL)
    state = tx.init(params)
    return Start(tx, _at_step(state, _INTERVAL), _at_step(state, _INTERVAL - 1))


def _at_step(opt_state: Any, step: int) -> Any:
    """The state as if ``step`` steps had been taken."""

    def is_moving(x: Any) -> bool:
        return isinstance(x, jp.transforms.MovingMaskState)

    def visit(x: Any) -> Any:
        return x._replace(step=jnp.asarray(step, x.step.dtype)) if is_moving(x) else x

    return jax.tree.map(visit, opt_state, is_leaf=is_moving)


def carry_of(problem: Problem, opt_state: Any) -> Carry:
    """Copies, since steps donate them; parameters are masked where the state holds a mask."""
    params = problem.params
    if jp.transforms.has_mask(opt_state):
        params = jp.apply_mask(params, jp.transforms.get_mask(opt_state))
    return jax.tree.map(jnp.copy, Carry(params, problem.model_state, opt_state))


def training_step(
    problem: Problem, tx: optax.GradientTransformation
) -> Callable[[Carry, Any], Carry]:
    """One step of training: loss and gradients, the optimizer, the new parameters."""

    def step(carry: Carry, batch: Any) -> Carry:
        (_, model_state), grads = jax.value_and_grad(problem.loss, has_aux=True)(
            carry.params, carry.model_state, batch
        )
        updates, opt_state = tx.update(grads, carry.opt_state, carry.params)
        return Carry(optax.apply_updates(carry.params, updates), model_state, opt_state)

    return step
