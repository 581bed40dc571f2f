"""How many programs a first prune compiles, whatever the number of leaves."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from tests.programs import counted


def weights(leaves, columns):
    """Leaves of shapes that no other test has."""
    random = np.random.default_rng(0)
    return {
        f"{i}/kernel": random.standard_normal((8, columns + i)).astype(np.float32)
        for i in range(leaves)
    }


@pytest.mark.parametrize("pattern", [None, jp.masks.nm(2, 4, axis=0)])
@pytest.mark.parametrize("allocation", [jp.masks.globally(max_sparsity=0.8), jp.masks.erk()])
def test_a_prune_on_the_host_compiles_nothing(allocation, pattern):
    params = jax.device_put(weights(5, 131))
    sparsity = 0.5 if pattern is None else None
    with counted() as programs:
        pruned, mask = jp.prune(params, sparsity, allocation=allocation, pattern=pattern)
        packed = jp.masks.pack(mask)
        restored = jp.masks.unpack(packed)
        again = jp.apply_mask(params, restored)
    assert programs.number == 0
    for name in params:
        np.testing.assert_array_equal(again[name], pruned[name])


@pytest.mark.parametrize("leaves", [2, 7])
def test_a_prune_on_several_devices_is_two_programs(leaves):
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    host = weights(leaves, 151 + leaves)
    params = jax.device_put(host, NamedSharding(mesh, PartitionSpec("x")))
    with counted() as programs:
        pruned, _ = jp.prune(params, 0.5)
    assert programs.number <= 2
    expected, _ = jp.prune(jax.device_put(host), 0.5)
    for name in host:
        np.testing.assert_array_equal(pruned[name], expected[name])
