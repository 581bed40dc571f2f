"""Masks in one bit a weight: exact, compiled, stacked, sharded."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune.masks import _pack

COLLECTIVES = ("all-gather", "all-to-all", "all-reduce", "collective-permute")


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def random_mask(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape) < 0.5)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype == bool
        np.testing.assert_array_equal(x, y)


@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 7, 8, 9, 16, 24]), max_size=4).filter(
        lambda shape: np.prod(shape) < 5000
    ),
    st.integers(0, 2**32 - 1),
)
def test_round_trip_of_any_shape(shape, seed):
    mask = {"net": {"kernel": random_mask(tuple(shape), seed)}, "bias": None}
    packed = jp.masks.pack(mask)
    bits = packed.bits["net"]["kernel"]
    assert bits.dtype == jnp.uint8
    assert bits.shape == _pack.packed_shape(tuple(shape))
    assert packed.nbytes == bits.size >= -(-int(np.prod(shape)) // 8)
    same(jp.masks.unpack(packed), mask)
    same(jp.masks.unpack(packed, like=mask), mask)


@pytest.mark.parametrize(
    ("shape", "packed"),
    [
        ((), (1,)),
        ((5,), (1,)),
        ((3, 3, 64, 128), (3, 3, 64, 16)),  # the last axis if it is divisible
        ((784, 300), (98, 300)),  # else one that is: nothing is wasted
        ((16, 800, 10), (16, 100, 10)),  # of several the longest
        ((3, 7, 5), (3, 1, 5)),  # else the least waste: 15 bytes, not 21 or 35
        ((9, 9), (9, 2)),  # of equals the last
        ((0, 5), (0, 1)),
    ],
)
def test_the_axis_follows_from_the_shape(shape, packed):
    assert _pack.packed_shape(shape) == packed
    assert jp.masks.pack(jnp.ones(shape, bool)).bits.shape == packed


def test_bits_are_in_little_order_and_padding_is_zero():
    mask = jnp.array([True, False, False, True, False, False, False, False, True, True])
    assert jp.masks.pack(mask).bits.tolist() == [9, 3]


def test_an_eighth_of_the_memory():
    mask = jp.masks.dense([jnp.ones((64, 10)), jnp.ones(3), jnp.ones((3, 128))])
    assert jp.masks.pack(mask).nbytes == (640 + 384) // 8


def test_jit_equals_eager():
    mask = {"a": random_mask((5, 16)), "b": None, "c": random_mask((3, 7))}
    packed = jax.jit(jp.masks.pack)(mask)
    assert packed.shapes == (("a", (5, 16)), ("c", (3, 7)))
    assert packed.bits["a"].tolist() == jp.masks.pack(mask).bits["a"].tolist()
    same(jax.jit(jp.masks.unpack)(packed), mask)
    same(jax.jit(lambda m: jp.masks.unpack(jp.masks.pack(m), like=m))(mask), mask)


@pytest.mark.parametrize("shape", [(6, 16), *slow((16, 5), (3, 3), ())])
def test_vmap_packs_each_member_of_a_stack(shape):
    stack = {"w": random_mask((3, *shape)), "b": None}
    packed = jax.vmap(jp.masks.pack)(stack)
    assert packed.shapes == (("w", shape),)
    assert packed.nbytes == 3 * int(np.prod(_pack.packed_shape(shape)))
    same(jax.vmap(jp.masks.unpack)(packed), stack)
    member = jax.tree.map(lambda bits: bits[1], packed)
    same(jp.masks.unpack(member), {"w": stack["w"][1], "b": None})
    with pytest.raises(ValueError, match=r"bits at 'w' have shape \(3, .*by jax.vmap\(unpack\)"):
        jp.masks.unpack(packed)


@pytest.mark.parametrize("explicit", [False, *slow(True)])
@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((16, 64), PartitionSpec("x", "y")),
        pytest.param((16, 128), PartitionSpec(None, ("x", "y")), marks=pytest.mark.slow),
        pytest.param((64, 5), PartitionSpec(("x", "y"), None), marks=pytest.mark.slow),
    ],
)
def test_sharded_leaves_are_packed_where_they_lie(shape, spec, explicit):
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(kind, kind))
    mask = random_mask(shape)
    spread = {"w": jax.device_put(mask, NamedSharding(mesh, spec))}
    packed = jp.masks.pack(spread)
    assert packed.bits["w"].sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
    assert packed.bits["w"].tolist() == jp.masks.pack(mask).bits.tolist()
    back = jp.masks.unpack(packed)
    assert back["w"].sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
    np.testing.assert_array_equal(back["w"], mask)
    for f, x in ((jp.masks.pack, spread), (jp.masks.unpack, packed)):
        compiled = jax.jit(f).lower(x).compile().as_text()
        assert not [word for word in COLLECTIVES if word in compiled]


@pytest.mark.parametrize(
    ("shape", "spec"), [((16, 16), PartitionSpec(None, "x")), ((24, 9), PartitionSpec("x"))]
)
def test_shards_that_bytes_would_cross_give_the_same_bits(shape, spec):
    mesh = Mesh(np.array(jax.devices()), ("x",))
    mask = random_mask(shape)
    spread = jax.device_put(mask, NamedSharding(mesh, spec))
    packed = jp.masks.pack(spread)
    assert packed.bits.tolist() == jp.masks.pack(mask).bits.tolist()
    np.testing.assert_array_equal(jp.masks.unpack(packed), mask)


PARAMS = {"net": {"kernel": jnp.ones((4, 16)), "bias": jnp.ones(16)}}


def test_like_may_be_parameters_a_mask_or_abstract():
    mask = {"net": {"kernel": random_mask((4, 16)), "bias": None}}
    packed = jp.masks.pack(mask)
    for like in (PARAMS, mask, jax.eval_shape(lambda: PARAMS), jax.eval_shape(lambda: mask)):
        same(jp.masks.unpack(packed, like=like), mask)
    frozen = jp.masks.unpack(packed, like=flax.core.freeze(PARAMS))
    assert isinstance(frozen, flax.core.FrozenDict)
    assert frozen["net"]["bias"] is None


def test_like_of_another_tree():
    packed = jp.masks.pack({"net": {"kernel": random_mask((4, 16)), "bias": None}})
    other = {"net": {"kernel": jnp.ones((16, 4)), "bias": jnp.ones(4)}}
    message = r"packed mask is of another.*'net/kernel' is \(4, 16\) in.*, \(16, 4\) in `like`"
    with pytest.raises(ValueError, match=message):
        jp.masks.unpack(packed, like=other)
    with pytest.raises(ValueError, match=r"'net/kernel' is \(4, 16\).* and absent in `like`"):
        jp.masks.unpack(packed, like={"kernel": jnp.ones((4, 16))})
    both = {"net": {"kernel": jnp.ones((4, 16), bool), "bias": jnp.ones(16, bool)}}
    with pytest.raises(ValueError, match=r"'net/bias' is absent in the packed mask, \(16,\)"):
        jp.masks.unpack(packed, like=both)
    many = jp.masks.pack({f"layer_{i}": jnp.ones(2, bool) for i in range(5)})
    with pytest.raises(ValueError, match=r"'layer_0'.*'layer_1'.*'layer_2'.*; and 2 more\. Pass"):
        jp.masks.unpack(many, like=PARAMS)


def test_what_cannot_be_packed():
    with pytest.raises(TypeError, match="'kernel' has dtype float32"):
        jp.masks.pack({"kernel": jnp.ones((2, 8))})
    twice = {"a/b": jnp.ones(2, bool), "a": {"b": jnp.ones(2, bool)}}
    with pytest.raises(ValueError, match="same readable path 'a/b'"):
        jp.masks.pack(twice)
