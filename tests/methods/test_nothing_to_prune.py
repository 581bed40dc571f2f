"""Sparsity 0 changes nothing: a sweep over 0, 0.5 and 0.9 needs no special case."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import methods, schedules, transforms

STEPS = 12
KERNEL = jnp.arange(36.0).reshape(3, 3, 2, 2) - 17
PARAMS = {"first": {"kernel": KERNEL, "bias": jnp.ones(2)}}
SGD = optax.sgd(0.01, momentum=0.9)


def loss(params):
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(params))


def train(tx, parametrization=None, steps=STEPS):
    """A whole training: parameters, optimizer state, state of the parametrization."""
    trainable, state = PARAMS, None
    if parametrization is not None:
        trainable, state = parametrization.init(PARAMS)

    def of_trainable(trainable, state):
        if parametrization is None:
            return loss(trainable), None
        params, after = parametrization.apply(trainable, state)
        return loss(params) + parametrization.penalty(trainable, state), after

    def step(carry, _):
        trainable, opt_state, state = carry
        grads, state = jax.grad(of_trainable, has_aux=True)(trainable, state)
        updates, opt_state = tx.update(grads, opt_state, trainable)
        return (optax.apply_updates(trainable, updates), opt_state, state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])
    return run((trainable, tx.init(trainable), state))


def options(name):
    parameters = inspect.signature(methods.METHODS[name]).parameters
    given = {"total_steps": STEPS, "key": jax.random.key(0)}
    return {k: v for k, v in given.items() if k in parameters}


NAMES = [n for n, m in methods.METHODS.items() if "sparsity" in inspect.signature(m).parameters]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_plain_training(name):
    method = methods.METHODS[name](0.0, **options(name))
    tx = SGD if method.transform is None else method.transform(SGD)
    trainable, opt_state, state = train(tx, method.parametrization)
    params, mask = method.finish(trainable, opt_state, state)
    assert jp.sparsity(mask) == 0
    expected, *_ = train(SGD)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_zeros_that_are_there_may_stay():
    params = {"kernel": jnp.array([[0.0, 1.0], [2.0, 3.0]])}
    for tx in (
        transforms.gmp(SGD, 0, total_steps=4, interval=1),
        transforms.one_shot(SGD, 0.0, step=1),
    ):
        np.testing.assert_array_equal(transforms.get_mask(tx.init(params))["kernel"], True)
    within = {"kernel": jnp.array([[False, True], [True, True]])}
    tx = transforms.gmp(SGD, 0.0, total_steps=4, interval=1, within=within)
    state = tx.init(params)
    updates, state = tx.update(params, state, params)
    np.testing.assert_array_equal(transforms.get_mask(state)["kernel"], within["kernel"])
    assert optax.apply_updates(params, updates)["kernel"][0, 0] == 0


@pytest.mark.parametrize("make", [transforms.rigl, transforms.set_])
def test_a_drop_fraction_of_zero_keeps_the_mask(make):
    tx = make(SGD, 0.5, key=jax.random.key(1), total_steps=STEPS, interval=2, drop_fraction=0)
    first = transforms.get_mask(tx.init(PARAMS))
    _, opt_state, _ = train(tx)
    assert 0 < jp.sparsity(first) < 1
    jax.tree.map(np.testing.assert_array_equal, transforms.get_mask(opt_state), first)


def test_a_window_of_no_length_prunes_once():
    times = {"total_steps": STEPS, "interval": 3, "begin_step": 5, "end_step": 5}
    assert schedules.gmp_targets(0.5, **times) == ((5,), (0.5,))
    tx = transforms.gmp(SGD, 0.5, **times)
    for steps, sparsity in ((4, 0.0), (5, 0.5), (STEPS, 0.5)):
        assert jp.sparsity(transforms.get_mask(train(tx, steps=steps)[1])) == sparsity
    for counts in (
        np.arange(8),
        jnp.arange(8),
        jnp.arange(8, dtype=jnp.uint8),
        jnp.arange(8, dtype=jnp.uint32),
    ):
        at = schedules.cubic(0.5, begin_step=5, end_step=5, initial=0.125)(counts)
        np.testing.assert_array_equal(at, [0.125] * 5 + [0.5] * 3)
        at_once = schedules.cubic(0.5, begin_step=0, end_step=0)(counts)
        np.testing.assert_array_equal(at_once, [0.5] * 8)
    assert float(schedules.cubic(0.5, begin_step=0, end_step=0)(0)) == 0.5
