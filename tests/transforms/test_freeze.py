"""Turning a moving mask into a fixed one, wherever it is in a state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transform_cases import labels, make_params, relaxed

from jaxprune.transforms import MovingMaskState, fixed_mask, freeze, get_mask, one_shot, set_mask

PARAMS = {"kernel": jnp.asarray([[1.0, 2.0, 3.0, 4.0]])}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def train(tx, state, params, steps):
    for _ in range(steps):
        updates, state = tx.update(ZERO, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_a_frozen_mask_stays_whatever_the_steps():
    tx = one_shot(optax.sgd(0.1), 0.5, step=2)
    params, _ = train(tx, freeze(tx.init(PARAMS)), PARAMS, 4)
    np.testing.assert_array_equal(params["kernel"], PARAMS["kernel"])
    params, state = train(tx, tx.init(PARAMS), PARAMS, 2)
    params, state = train(tx, freeze(state), params, 2)
    assert params["kernel"].tolist() == [[0, 0, 3, 4]]
    assert int(state.step) == 4  # steps go on


def test_a_frozen_mask_is_a_fixed_one():
    mask = {"kernel": jnp.asarray([[False, True, True, False]])}
    tx = one_shot(optax.sgd(0.1, 0.9), 0.5, step=1)
    fixed = fixed_mask(optax.sgd(0.1, 0.9), mask)
    states = {"frozen": freeze(set_mask(tx.init(PARAMS), mask)), "fixed": fixed.init(PARAMS)}
    params = {"frozen": PARAMS, "fixed": PARAMS}
    for i in range(3):
        grads = {"kernel": jnp.full((1, 4), i + 1.0)}
        for name, wrap in (("frozen", tx), ("fixed", fixed)):
            updates, states[name] = wrap.update(grads, states[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
        np.testing.assert_array_equal(params["frozen"]["kernel"], params["fixed"]["kernel"])
    assert params["frozen"]["kernel"][0, 0] == 0


@pytest.mark.parametrize("number", [1, 2])
def test_it_is_found_wherever_wrappers_have_put_it(number):
    def wrap(tx):
        return one_shot(relaxed(tx), 0.5, step=3, where=lambda path, _: path.endswith("kernel"))

    both = optax.partition({"kernel": wrap(optax.adam(0.1)), "bias": optax.sgd(0.1)}, labels)
    tx = optax.MultiSteps(both, 2)
    if number == 2:  # one inside the other
        tx = one_shot(relaxed(both), 0.5, step=4)
    state = tx.init(make_params())
    frozen = freeze(state)
    assert jax.tree.structure(frozen) == jax.tree.structure(state)

    def found(state):
        moving = [x for x in jax.tree.leaves(state, is_leaf=is_moving) if is_moving(x)]
        inner = [flag for x in moving for flag in found(x.inner_state)]
        return [bool(x.frozen) for x in moving] + inner

    assert found(state) == [False] * number
    assert found(frozen) == [True] * number
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(frozen), strict=True)
    changed = [not np.array_equal(x, y) for x, y in pairs]
    assert sum(changed) == number  # and nothing else
    assert jax.tree.structure(get_mask(frozen)) == jax.tree.structure(get_mask(state))


def is_moving(x):
    return isinstance(x, MovingMaskState)


def test_it_can_be_traced_and_keeps_the_signature():
    tx = one_shot(optax.sgd(0.1), 0.5, step=2)
    state = tx.init(PARAMS)
    frozen = jax.jit(freeze)(state)
    assert bool(frozen.frozen)
    assert not bool(state.frozen)
    like = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert like == jax.tree.map(lambda x: (x.shape, x.dtype), frozen)


def test_a_fixed_mask_is_left_as_it_is():
    state = fixed_mask(optax.sgd(0.1, 0.9), {"kernel": jnp.ones((1, 4), bool)}).init(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, freeze(state), state)


def test_a_state_without_a_mask_is_refused():
    with pytest.raises(ValueError, match=r"there is no mask in this optimizer state.*Wrap the opt"):
        freeze(optax.adam(0.1).init(PARAMS))
