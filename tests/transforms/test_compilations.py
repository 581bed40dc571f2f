"""How many programs a masked optimizer compiles outside of `jit`; shapes that no other test has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import transforms
from tests.programs import counted


def trees(leaves, width):
    """Parameters, gradients and a mask, of so many leaves of different shapes."""
    rng = np.random.default_rng(0)
    shapes = {f"layer{i}": {"kernel": (width, 3 + i), "bias": (3 + i,)} for i in range(leaves)}
    params, grads = (
        jax.tree.map(
            lambda s: jnp.asarray(rng.normal(size=s), jnp.float32),
            shapes,
            is_leaf=lambda s: isinstance(s, tuple),
        )
        for _ in range(2)
    )
    mask = jax.tree.map(lambda p: p > 0 if p.ndim == 2 else None, params)
    return params, grads, mask


@pytest.mark.parametrize(("leaves", "width"), [(1, 67), (12, 71)])
def test_the_state_is_one_program_whatever_the_number_of_leaves(leaves, width):
    params, _, mask = trees(leaves, width)
    for number in (1, 0):  # the same optimizer anew has nothing left to compile
        with counted() as programs:
            transforms.fixed_mask(optax.sgd(0.1, momentum=0.9), mask).init(params)
        assert programs.number == number


@pytest.mark.parametrize(("leaves", "width"), [(1, 73), (12, 79)])
def test_an_update_adds_at_most_three_programs_to_those_of_the_optimizer(leaves, width):
    params, grads, mask = trees(leaves, width)
    inner = optax.sgd(0.1, momentum=0.9)
    inner.update(grads, inner.init(params), params)
    tx = transforms.fixed_mask(inner, mask)
    state = tx.init(params)
    with counted() as programs:
        tx.update(grads, state, params)
    assert programs.number <= 3  # masked moments, masked gradients and weights, what goes to zero


def test_masks_are_copied_and_read_without_a_program():
    params, _, mask = trees(3, 83)
    state = transforms.fixed_mask(optax.sgd(0.1), mask).init(params)
    with counted() as programs:
        held = transforms.get_mask(state)
        state = transforms.set_mask(state, held)
    assert programs.number == 0
    jax.jit(lambda state: jax.tree.map(lambda x: ~x, state.mask), donate_argnums=0)(state)
    for leaf in jax.tree.leaves((held, mask)):
        assert not leaf.is_deleted()


def test_an_optimizer_that_asks_for_values_is_initialised_as_ever():
    def init(params):
        assert float(optax.tree.norm(params)) > 0
        return {"moment": optax.tree.zeros_like(params)}

    params, _, mask = trees(1, 89)
    tx = transforms.fixed_mask(
        optax.GradientTransformation(init, lambda g, state, params=None: (g, state)), mask
    )
    state = tx.init(params)
    assert jax.tree.structure(state.inner_state["moment"]) == jax.tree.structure(params)
