"""States as named arrays: there and back, checksums wherever they lie, records in JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune.training.checkpoints._portable import digests, from_arrays, shapes_of, to_arrays
from jaxprune.training.checkpoints._records import from_json, to_json
from tests.training import meshed, problem
from tests.training.checkpointed import assert_equal

P = PartitionSpec


def tree():
    return {
        "mask": jax.random.bernoulli(jax.random.key(0), 0.5, (5, 16)),
        "odd": jax.random.bernoulli(jax.random.key(1), 0.5, (3, 7)),
        "flag": jnp.array(True),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 3),
        "empty": jnp.zeros((0, 4)),
        "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
        "parts": (jnp.float32(1.5), None, [jnp.int32(7)]),
    }


def test_there_and_back():
    arrays = to_arrays(tree())
    assert arrays["mask"].shape == (5, 2)  # eight to a byte
    assert arrays["mask"].dtype == jnp.uint8
    assert "empty" not in arrays
    assert {name: (s.shape, s.dtype) for name, s in shapes_of(tree()).items()} == {
        name: (x.shape, x.dtype) for name, x in arrays.items()
    }
    like = jax.tree.map(lambda x: x if x.dtype != bool else jnp.zeros_like(x), tree())
    assert_equal(from_arrays(arrays, like), tree())


def test_paths_that_look_alike_stay_apart():
    twins = {"a": {"b": jnp.ones(2)}, "a/b": jnp.zeros(2)}
    arrays = to_arrays(twins)
    assert len(arrays) == 2
    assert_equal(from_arrays(arrays, twins), twins)


def test_sharded_arrays_keep_their_places():
    mesh = meshed.mesh(8)
    state = {
        "kernel": jax.device_put(jnp.arange(128.0).reshape(8, 16), NamedSharding(mesh, P("data"))),
        "mask": jax.device_put(jnp.ones((16, 8), bool), NamedSharding(mesh, P("data"))),
        "along": jax.device_put(jnp.ones((3, 8), bool), NamedSharding(mesh, P(None, "data"))),
    }
    shapes = shapes_of(state)
    assert shapes["kernel"].sharding.spec == shapes["mask"].sharding.spec == P("data", *[None])
    assert shapes["along"].sharding.spec == P(None, None)  # one byte of eight shards
    back = from_arrays(to_arrays(state), state)
    for name, leaf in state.items():
        assert back[name].sharding == leaf.sharding, name


@pytest.mark.parametrize(
    ("spec", "number"),
    [
        (P("data"), 30),
        pytest.param(P("data"), 100, marks=pytest.mark.slow),
        pytest.param(P(None, "data"), 100, marks=pytest.mark.slow),
    ],
)
def test_many_sharded_arrays_at_a_time(spec, number):
    """Each is a sum over devices; simulated ones meet for few programs at a time."""
    where = NamedSharding(meshed.mesh(8), spec)
    weights = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    kernels = {f"kernel {i}": weights + i for i in range(number)}
    kept = {f"mask {i}": weights % (i + 2) > 0 for i in range(number)}
    whole = jax.tree.map(jnp.asarray, kernels | kept)
    state = jax.device_put(whole, where)
    arrays = to_arrays(state)
    assert digests(arrays) == digests(to_arrays(whole))
    assert_equal(from_arrays(arrays, state), whole)


def test_checksums_do_not_depend_on_where_arrays_lie():
    x = jax.random.normal(jax.random.key(0), (16, 24))
    alone = digests({"x": x})
    for spec in (P("data"), P(None, "data"), P()):
        assert digests({"x": jax.device_put(x, NamedSharding(meshed.mesh(8), spec))}) == alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "int32", "float16", "uint32"])
def test_checksums_see_every_change(dtype):
    x = np.arange(1, 25).reshape(4, 6).astype(jnp.dtype(dtype))
    changes = {}
    changes["one entry"] = x.copy()
    changes["one entry"][3, 5] += 1
    changes["exchanged"] = x.copy()
    changes["exchanged"][0, 0], changes["exchanged"][0, 1] = x[0, 1], x[0, 0]
    changes["shifted"] = np.roll(x, 1)
    changes["zeros"] = np.zeros_like(x)
    changes["last bit"] = x.copy()
    changes["last bit"].view(np.uint8)[-1, -1] ^= 1
    truth = digests({"x": jnp.asarray(x)})
    for what, changed in changes.items():
        assert digests({"x": jnp.asarray(changed)}) != truth, what


def test_records_go_through_json_bit_by_bit():
    result = jp.training.imp(
        problem.state(),
        problem.loop(),
        evaluate=problem.evaluate,
        pretraining=lambda t: 0.1 + 0 * t,
        pretraining_steps=7,
        sparsity=0.6,
        retraining_steps=3,
    )
    arrays = {}
    text = json.dumps(to_json(result.records, arrays, "records"))
    back = from_json(json.loads(text), arrays)
    assert len(back) == 2
    for a, b in zip(result.records, back, strict=True):
        assert a._replace(learning_rates=0, metrics=0, info=0) == b._replace(
            learning_rates=0, metrics=0, info=0
        )
        assert a.learning_rates.dtype == b.learning_rates.dtype
        np.testing.assert_array_equal(a.learning_rates, b.learning_rates)
        for name in ("loss", "accuracy"):
            np.testing.assert_array_equal(a.metrics[name], b.metrics[name])
    info = back[1].info
    assert info.counts() == result.records[1].info.counts()
    assert (info.paths, info.pools, info.unit) == (
        result.records[1].info.paths,
        result.records[1].info.pools,
        "weights",
    )
    info.check()
