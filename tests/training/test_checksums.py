"""Checksums on the host equal those that devices compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.training.checkpoints._portable import digests
from tests.programs import counted
from tests.training import meshed

DTYPES = ["bool", "int8", "uint16", "bfloat16", "float16", "int32", "uint32", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8,), (16, 3, 5), (8, 40_007)])
def test_on_one_cpu_and_on_eight_devices(dtype, shape):
    with jax.enable_x64(dtype == "float64"):
        x = np.random.default_rng(0).integers(0, 100, shape).astype(jnp.dtype(dtype))
        here = jnp.asarray(x)
        spread = jax.device_put(x, NamedSharding(meshed.mesh(8), PartitionSpec("data")))
        assert here.dtype == spread.dtype == jnp.dtype(dtype)
        expected = digests({"x": spread})
        with counted() as programs:
            assert digests({"x": here}) == expected
            assert digests({"x": x}) == expected
        assert programs.number == 0
