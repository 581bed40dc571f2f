"""Masks as functions of the parameters, and with `None` for a whole subtree, as in optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import transforms

PARAMS = {
    "a": {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4), "bias": jnp.ones(4)},
    "norm": {"scale": jnp.ones(4), "more": {"bias": jnp.ones(4)}},
    "b": [jnp.ones((4, 2)), jnp.ones(2)],
}
FULL = jp.prune(PARAMS, 0.5, where=lambda path, leaf: path == "a/kernel")[1]
PREFIX = {"a": {"kernel": FULL["a"]["kernel"], "bias": None}, "norm": None, "b": None}


def first(tx):
    state = tx.init(PARAMS)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    return optax.apply_updates(PARAMS, updates), transforms.get_mask(state)


@pytest.mark.parametrize(
    "make",
    [lambda m: transforms.fixed_mask(optax.sgd(0.1, momentum=0.9), m), transforms.zero_updates],
)
def test_the_same_as_the_mask_itself(make):
    expected = first(make(FULL))
    for given in (PREFIX, lambda params: jp.prune(params, 0.5, where=is_a)[1], lambda _: PREFIX):
        jax.tree.map(np.testing.assert_array_equal, first(make(given)), expected)


def is_a(path, leaf):
    del leaf
    return path == "a/kernel"


def test_wherever_a_mask_is_taken():
    assert jp.sparsity(PREFIX) == jp.sparsity(FULL) == 0.5
    jax.tree.map(
        np.testing.assert_array_equal, jp.apply_mask(PARAMS, PREFIX), jp.apply_mask(PARAMS, FULL)
    )
    state = jp.training.TrainState.create(
        PARAMS, lambda lr: optax.sgd(lr, 0.9), mask=PREFIX, key=jax.random.key(0)
    )
    jp.assert_sparse(state.params, PREFIX)
    assert jax.tree.structure(state.mask) == jax.tree.structure(FULL)
    opt_state = transforms.fixed_mask(optax.sgd(0.1), FULL).init(PARAMS)
    opt_state = transforms.set_mask(opt_state, PREFIX)
    assert jp.sparsity(transforms.get_mask(opt_state)) == 0.5


def test_wherever_a_mask_and_parameters_meet():
    scores = jp.scores.magnitude(PARAMS, where=is_a)
    given = [jp.masks.make(scores, 0.75, within=mask) for mask in (PREFIX, FULL)]
    jax.tree.map(np.testing.assert_array_equal, *given)
    jp.prune(PARAMS, 0.75, scores=scores, within=PREFIX)
    for tx in (
        transforms.prune_at(optax.sgd(0.1), (1,), (0.75,), within=PREFIX, where=is_a),
        transforms.rigl(
            optax.sgd(0.1),
            None,
            key=jax.random.key(0),
            total_steps=20,
            interval=5,
            within=PREFIX,
            where=is_a,
        ),
    ):
        updates, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        jp.assert_sparse(optax.apply_updates(PARAMS, updates), state)

    def apply(params, x):
        return (x @ params["a"]["kernel"]) @ params["b"][0]

    sizes = [jp.metrics.size_in_bytes(PARAMS, mask) for mask in (PREFIX, FULL)]
    assert sizes[0] == sizes[1]
    found = [jp.metrics.flops(apply, PARAMS, jnp.ones((1, 2)), mask=m) for m in (PREFIX, FULL)]
    assert found[0] == found[1]
    assert jp.metrics.iou(PREFIX, FULL) == 1.0
    assert str(jp.masks.report(PARAMS, PREFIX)) == str(jp.masks.report(PARAMS, FULL))


def test_a_run_takes_a_function_of_the_parameters():
    def half(params):
        return jp.prune(params, 0.5, where=is_a)[1]

    state = jp.training.TrainState.create(
        PARAMS, lambda lr: optax.sgd(lr), mask=half, key=jax.random.key(0)
    )
    jax.tree.map(np.testing.assert_array_equal, state.mask, FULL)


def test_what_fits_nowhere_is_named():
    wrong = {"a": {"kernel": FULL["a"]["kernel"], "bias": None}, "norm": None, "c": None}
    for tx in (transforms.fixed_mask(optax.sgd(0.1), wrong), transforms.zero_updates(wrong)):
        with pytest.raises(ValueError, match="the mask is of another tree"):
            tx.init(PARAMS)
    with pytest.raises(ValueError, match="another tree"):
        jp.apply_mask(PARAMS, {"a": FULL["a"]["kernel"], "norm": None, "b": None})
    with pytest.raises(TypeError, match="holds boolean arrays"):
        transforms.fixed_mask(optax.sgd(0.1), lambda params: params).init(PARAMS)
    with pytest.raises(ValueError, match="the mask has no leaf"):
        transforms.fixed_mask(optax.sgd(0.1), lambda params: None).init(PARAMS)
