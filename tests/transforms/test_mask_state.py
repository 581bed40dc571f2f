"""Reading and replacing the mask and the learning rate in any optimizer state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transform_cases import CASES, make_mask, make_params, relaxed

from jaxprune.transforms import (
    PruneMask,
    fixed_mask,
    get_mask,
    set_learning_rate,
    set_mask,
    zero_updates,
)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", CASES)
def test_set_and_get_wherever_the_mask_is(name):
    state = CASES[name].masked(make_mask()).init(make_params())
    new = set_mask(state, make_mask(seed=8))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert_same(get_mask(state), make_mask())
    assert_same(get_mask(new), make_mask(seed=8))
    assert_same(set_mask(new, make_mask()), state)


@pytest.mark.parametrize("name", ["inject_inside", "partition_outside_prefix"])
def test_set_and_get_under_jit(name):
    state = CASES[name].masked(make_mask()).init(make_params())
    new = jax.jit(set_mask)(state, make_mask(seed=8))
    assert_same(new, set_mask(state, make_mask(seed=8)))
    assert_same(jax.jit(get_mask)(new), make_mask(seed=8))


def test_partial_masks_are_merged():
    a, b = jnp.array([True]), jnp.array([False])
    gone = optax.MaskedNode()
    state = (
        PruneMask({"x": {"w": a}, "y": gone}),
        [PruneMask({"x": gone, "y": {"w": b, "c": gone}})],
    )
    assert get_mask(state) == {"x": {"w": a}, "y": {"w": b, "c": None}}


def test_masks_that_differ():
    params = make_params()
    parts = [fixed_mask(optax.sgd(0.1), make_mask(seed)) for seed in (1, 2)]
    state = optax.chain(*parts).init(params)
    with pytest.raises(ValueError, match=r"two different masks.*shape \(3, 3, 2, 4\).*set_mask"):
        get_mask(state)
    # Traced values cannot be compared: what both keep is kept, as the chain does.
    both = jax.tree.map(jnp.logical_and, make_mask(1), make_mask(2))
    assert_same(jax.jit(get_mask)(state), both)
    assert_same(get_mask(set_mask(state, make_mask(3))), make_mask(3))


@pytest.mark.parametrize("f", [get_mask, lambda s: set_mask(s, make_mask())])
def test_a_state_without_a_mask(f):
    with pytest.raises(ValueError, match=r"no mask in this optimizer state.*fixed_mask\(optimizer"):
        f(optax.adam(0.1).init(make_params()))


def test_set_mask_refuses_other_masks():
    state = fixed_mask(optax.sgd(0.1), make_mask()).init(make_params())

    def changed(layer, name, leaf):
        mask = make_mask()
        mask[layer][name] = leaf
        return mask

    with pytest.raises(ValueError, match=r"shape \(2,\) at 'dense/kernel', the parameter \(4, 3\)"):
        set_mask(state, changed("dense", "kernel", jnp.ones(2, bool)))
    with pytest.raises(ValueError, match="the state holds a mask at 'dense/kernel', the new mask"):
        set_mask(state, changed("dense", "kernel", None))
    with pytest.raises(ValueError, match="the new mask holds a mask at 'conv/bias', the state"):
        set_mask(state, changed("conv", "bias", jnp.ones(4, bool)))
    with pytest.raises(ValueError, match=r"another tree.*'dense/other'"):
        set_mask(state, changed("dense", "other", jnp.ones(4, bool)))
    with pytest.raises(TypeError, match="'dense/kernel' has dtype float32"):
        set_mask(state, changed("dense", "kernel", jnp.ones((4, 3))))


def test_set_mask_changes_only_the_mask():
    params = make_params()
    tx = optax.chain(fixed_mask(optax.sgd(0.1, 0.9), make_mask()), zero_updates(make_mask()))
    _, state = tx.update(params, tx.init(params), params)
    new = set_mask(state, make_mask(seed=8))
    assert_same(new[0].inner_state, state[0].inner_state)
    assert_same(new[1], new[0].mask)


# The learning rate


def injected(inner, **options):
    return optax.inject_hyperparams(inner, **options)(learning_rate=0.1)


WITH_RATE = {
    "bare": lambda mask: injected(optax.sgd),
    "inside": lambda mask: fixed_mask(injected(optax.sgd), mask),
    "outside": lambda mask: injected(
        lambda learning_rate: fixed_mask(optax.sgd(learning_rate), mask)
    ),
    "chain": lambda mask: optax.chain(optax.clip(9.0), fixed_mask(injected(optax.sgd), mask)),
    "nested": lambda mask: optax.inject_hyperparams(
        lambda decay: optax.chain(optax.trace(decay), injected(optax.sgd))
    )(decay=0.0),
    "multisteps": lambda mask: relaxed(optax.MultiSteps(fixed_mask(injected(optax.sgd), mask), 1)),
    "partition": lambda mask: optax.partition(
        {"a": injected(optax.sgd), "b": fixed_mask(injected(optax.sgd), mask)},
        {"conv": "a", "dense": "b"},
    ),
}


@pytest.mark.parametrize("name", WITH_RATE)
def test_the_rate_is_set_wherever_it_is(name):
    params, grads = make_params(), jax.tree.map(jnp.ones_like, make_params())
    tx = WITH_RATE[name](make_mask())
    state = tx.init(params)
    for new in (set_learning_rate(state, 0.5), jax.jit(set_learning_rate)(state, 0.5)):
        assert jax.eval_shape(lambda s: s, new) == jax.eval_shape(lambda s: s, state)
        updates, _ = tx.update(grads, new, params)
        for layer in ("conv", "dense"):
            np.testing.assert_array_equal(updates[layer]["bias"], -0.5)
    updates, _ = tx.update(grads, state, params)  # the old state is untouched
    np.testing.assert_allclose(updates["dense"]["bias"], -0.1, rtol=1e-6)


def test_the_rate_keeps_its_dtype():
    state = injected(optax.sgd, hyperparam_dtype=jnp.bfloat16).init(make_params())
    new = set_learning_rate(state, jnp.float32(0.5))
    assert new.hyperparams["learning_rate"].dtype == jnp.bfloat16
    assert not new.hyperparams["learning_rate"].weak_type


def test_one_rate_for_each_stacked_state():
    state = jax.vmap(injected(optax.sgd).init)(jnp.ones((2, 3)))
    rates = lambda lr: set_learning_rate(state, lr).hyperparams["learning_rate"]  # noqa: E731
    np.testing.assert_array_equal(rates(0.5), [0.5, 0.5])
    np.testing.assert_array_equal(rates(jnp.array([0.5, 0.25])), [0.5, 0.25])
    with pytest.raises(ValueError, match=r"has shape \(3,\), the one in the state \(2,\)"):
        rates(jnp.ones(3))


def test_states_without_a_settable_rate():
    params = make_params()
    with pytest.raises(ValueError, match=r"no injected learning rate.*optax\.inject_hyperparams"):
        set_learning_rate(fixed_mask(optax.sgd(0.1), make_mask()).init(params), 0.1)
    with pytest.raises(ValueError, match="no injected learning rate"):
        set_learning_rate(optax.inject_hyperparams(optax.trace)(decay=0.9).init(params), 0.1)
    scheduled = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.0, 9))
    with pytest.raises(ValueError, match=r"follows a schedule.*Inject a number"):
        set_learning_rate(scheduled.init(params), 0.1)
