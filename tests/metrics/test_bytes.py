"""Bytes of a network: the formulas by hand, and zlib's outcome undone."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.metrics import LeafBytes, size_in_bytes


def params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {
        "bias": jnp.asarray(rng.normal(size=5), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(3, 7)), dtype),
        "step": jnp.asarray(3, jnp.int32),
    }


def mask(kept=4):
    return {"bias": None, "kernel": (jnp.arange(21) < kept).reshape(3, 7), "step": None}


@pytest.mark.parametrize(("dtype", "width"), [(jnp.float32, 4), (jnp.bfloat16, 2), ("float16", 2)])
def test_kept_values_and_a_bit_a_weight(dtype, width):
    found = size_in_bytes(params(dtype), mask())
    assert found.leaves == (
        LeafBytes("bias", 20, 20, None),
        LeafBytes("kernel", 21 * width, 4 * width + 3, None),
        LeafBytes("step", 4, 4, None),
    )
    assert found.dense == 24 + 21 * width
    assert found.packed == 24 + 4 * width + 3
    assert found.compressed is None
    assert all(type(x) is int for x in (found.dense, found.packed))


def test_the_bitmap_is_the_one_of_packed_masks_where_no_axis_is_padded():
    m = {"w": jnp.zeros((16, 5), bool)}
    packed = size_in_bytes({"w": jnp.ones((16, 5))}, m).packed
    assert packed == jp.masks.pack(m).nbytes == 10


@pytest.mark.parametrize("given", [True, False])
def test_a_leaf_of_which_nothing_is_removed_needs_no_bitmap(given):
    found = size_in_bytes(params(), mask(kept=21) if given else None)
    assert found.packed == found.dense == 20 + 84 + 4


def test_without_a_mask_zeros_are_removed():
    pruned = jp.apply_mask(params(), mask())
    assert size_in_bytes(pruned) == size_in_bytes(params(), mask())
    # Of either sign; what is not a number is kept, integers are no weights.
    odd = {"w": jnp.asarray([0.0, -0.0, jnp.nan, 1.0]), "n": jnp.zeros(4, jnp.int32)}
    assert [leaf.packed for leaf in size_in_bytes(odd).leaves] == [16, 2 * 4 + 1]


def test_an_empty_network_and_empty_leaves():
    assert size_in_bytes({}) == ((),)
    assert size_in_bytes({}, zlib_level=1).compressed == 0
    assert size_in_bytes({"w": jnp.zeros((0, 3))}).leaves == (LeafBytes("w", 0, 0, None),)


def test_more_entries_than_an_int32_counts():
    big = {"w": jax.ShapeDtypeStruct((1 << 20, 1 << 12), jnp.bfloat16)}
    assert size_in_bytes(big).packed == size_in_bytes(big, {"w": None}).dense == 1 << 33


def test_leaves_that_are_absent_or_no_arrays():
    found = size_in_bytes(
        {"a": None, "b": 1.0, "c": np.zeros(8)}, {"a": None, "b": None, "c": None}
    )
    assert found.leaves == (LeafBytes("b", 4, 4, None), LeafBytes("c", 64, 64, None))
    key = {"key": jax.random.key(0)}
    assert size_in_bytes(key, zlib_level=9).dense == jax.random.key_data(key["key"]).nbytes


@pytest.mark.parametrize("level", [1, 9])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_compressed_is_what_zlib_makes_of_the_masked_bytes(level, dtype):
    found = size_in_bytes(params(dtype), mask(), zlib_level=level)
    pruned = jp.apply_mask(params(dtype), mask())
    expected = [
        len(zlib.compress(np.asarray(leaf).tobytes(), level)) for leaf in jax.tree.leaves(pruned)
    ]
    assert [leaf.compressed for leaf in found.leaves] == expected
    assert found.compressed == sum(expected)
    assert size_in_bytes(pruned, zlib_level=level) == found


def test_few_weights_compress_well_and_random_ones_do_not():
    rng = np.random.default_rng(1)
    w = {"w": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)}
    sparse = {"w": jnp.asarray(rng.random((64, 64)) < 0.01)}
    dense = size_in_bytes(w, zlib_level=6).compressed
    assert 0.85 < dense / (4 * 64 * 64) < 1.01
    found = size_in_bytes(w, sparse, zlib_level=6)
    assert found.compressed < found.packed < 0.05 * found.dense


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((params(), {"kernel": None}), {}, ValueError, "the mask is of another tree"),
        (
            (params(), mask() | {"kernel": jnp.ones((3, 7))}),
            {},
            TypeError,
            "a mask holds boolean",
        ),
        ((params(),), {"zlib_level": 10}, ValueError, r"1 \(fast\) to 9 \(small\); got 10"),
        ((params(),), {"zlib_level": 0}, ValueError, r"to 9 \(small\); got 0"),
        ((params(),), {"zlib_level": 6.0}, TypeError, r"an integer from 1 to 9.*6\.0"),
        ((params(),), {"zlib_level": True}, TypeError, r"an integer from 1 to 9.*True"),
        (
            ({"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)},),
            {"zlib_level": 6},
            ValueError,
            "'w' is a shape without values.*leave out zlib_level",
        ),
    ],
)
def test_what_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        size_in_bytes(*arguments, **options)
