"""Union, intersection, difference and complement of masks."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp

A = {"kernel": jnp.array([[True, True], [False, False]]), "bias": None}
B = {"kernel": jnp.array([[True, False], [True, False]]), "bias": None}
OPERATIONS = [
    (jp.masks.union, np.logical_or),
    (jp.masks.intersection, np.logical_and),
    (jp.masks.difference, lambda a, b: a & ~b),
]


@pytest.mark.parametrize(("operation", "oracle"), OPERATIONS)
def test_eager_jit_and_numpy(operation, oracle):
    expected = oracle(np.asarray(A["kernel"]), np.asarray(B["kernel"]))
    for f in (operation, jax.jit(operation)):
        result = f(A, B)
        assert result["bias"] is None
        assert result["kernel"].dtype == bool
        np.testing.assert_array_equal(result["kernel"], expected)
    on_host = operation(jax.device_get(A), jax.device_get(B))
    np.testing.assert_array_equal(on_host["kernel"], expected)


def test_complement():
    result = jax.jit(jp.masks.complement)(A)
    assert result["bias"] is None
    np.testing.assert_array_equal(result["kernel"], ~np.asarray(A["kernel"]))


@pytest.mark.parametrize(("operation", "oracle"), OPERATIONS)
def test_vmap_over_one_or_both(operation, oracle):
    stack = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    one = stack[0]
    both = jax.vmap(operation)({"w": stack}, {"w": stack[::-1]})
    np.testing.assert_array_equal(both["w"], oracle(stack, stack[::-1]))
    first = jax.vmap(operation, in_axes=(0, None))({"w": stack}, {"w": one})
    np.testing.assert_array_equal(first["w"], oracle(stack, one[None]))


def test_sharded_leaves_stay_sharded():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    sharding = NamedSharding(mesh, PartitionSpec("x", "y"))
    a, b = (jax.device_put(jnp.ones((4, 8), bool), sharding) for _ in range(2))
    assert jp.masks.union({"w": a}, {"w": b})["w"].sharding == sharding
    assert jp.masks.complement({"w": a})["w"].sharding == sharding


def test_a_prune_splits_into_what_stays_and_what_it_removed():
    scores = {"w": jnp.arange(20.0)}
    before = jp.masks.make(scores, 0.3)
    after = jp.masks.make(scores, 0.6, within=before)
    removed = jp.masks.difference(before, after)
    assert jp.metrics.counts(removed) == (6, 20)
    whole = jp.masks.union(removed, after)
    np.testing.assert_array_equal(whole["w"], before["w"])
    nothing = jp.masks.intersection(removed, after)
    assert jp.metrics.counts(nothing) == (0, 20)


def test_other_containers_and_absent_leaves():
    frozen = flax.core.freeze({"kernel": B["kernel"], "bias": optax.MaskedNode()})
    result = jp.masks.union(A, frozen)
    assert isinstance(result, dict)
    assert result["bias"] is None
    assert isinstance(jp.masks.union(frozen, A), flax.core.FrozenDict)


@pytest.mark.parametrize("operation", [f for f, _ in OPERATIONS])
def test_masks_of_different_parameters(operation):
    with pytest.raises(ValueError, match="only the second mask has a leaf at 'bias'"):
        operation(A, {**B, "bias": jnp.ones(2, bool)})
    with pytest.raises(ValueError, match="only the first mask has a leaf at 'kernel'"):
        operation(A, {"kernel": None, "bias": None})
    with pytest.raises(ValueError, match=r"has shape \(2, 2\) at 'kernel', the second \(4,\)"):
        operation(A, {"kernel": jnp.ones(4, bool), "bias": None})
    with pytest.raises(TypeError, match="'kernel' has dtype float32"):
        operation(A, {"kernel": jnp.ones((2, 2)), "bias": None})


def test_leaves_in_another_order():
    import collections

    x, y = jnp.ones(2, bool), jnp.ones(3, bool)
    ordered = collections.OrderedDict([("b", x), ("a", y)])
    with pytest.raises(ValueError, match="in another order: 'a' where 'b' is"):
        jp.masks.union({"a": y, "b": x}, ordered)


def test_complement_of_what_is_no_mask():
    with pytest.raises(TypeError, match="'w' has dtype int32"):
        jp.masks.complement({"w": jnp.ones(2, jnp.int32)})
