"""How many programs ``init`` compiles outside of `jit`; shapes that no other test has."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import parametrizations
from tests.programs import counted

METHODS = {
    "identity": parametrizations.identity,
    "dnw": lambda: parametrizations.dnw(0.5),
    "dpf": lambda: parametrizations.dpf(0.5, total_steps=40, interval=10),
    "cs": lambda: parametrizations.cs(total_steps=40),
    "str": parametrizations.str_,
    "dst": parametrizations.dst,
}


@pytest.mark.parametrize("name", METHODS)
def test_init_compiles_one_program_at_most_whatever_the_number_of_leaves(name):
    rng = np.random.default_rng(0)
    width = 61 + 10 * list(METHODS).index(name)
    params = {
        f"layer{i}": {
            "kernel": jnp.asarray(rng.normal(size=(width, 3 + i)), jnp.float32),
            "bias": jnp.zeros(3 + i),
        }
        for i in range(9)
    }
    method = METHODS[name]()
    with counted() as programs:
        method.init(params)
    assert programs.number <= 1
