"""Networks in one file, and every way in which such a file can be wrong."""

import json
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp

PARAMS, MASK = jp.prune(
    {
        "net": {"kernel": jnp.arange(1.0, 13.0).reshape(3, 4), "bias": jnp.zeros(4)},
        "blocks": [{"kernel": jnp.ones((2, 2), jnp.bfloat16)}, {"scale": jnp.float32(3)}],
    },
    0.5,
    scores=lambda p: jp.scores.magnitude(p),
    allocation=jp.masks.uniform(),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_there_and_back(path):
    jp.save(path, PARAMS, MASK, settings={"sparsity": 0.5})
    params, mask = jp.load(path)
    same(params, PARAMS)
    same(mask, MASK)
    params, mask = jp.load(path, like=jax.eval_shape(lambda p: p, PARAMS))
    same(params, PARAMS)
    same(mask, MASK)
    jp.assert_sparse(params, mask)
    jp.save(path, PARAMS)
    assert jp.load(path)[1] is None
    jp.save(path, PARAMS, {"net": {"kernel": MASK["net"]["kernel"], "bias": None}, "blocks": None})
    assert jp.load(path)[1]["blocks"][0]["kernel"] is None


def test_what_other_readers_see(path):
    jp.save(path, PARAMS, MASK)
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(tensors["net/kernel"], PARAMS["net"]["kernel"])
    bits = np.unpackbits(tensors["jaxprune.mask/net/kernel"], bitorder="little", count=12)
    np.testing.assert_array_equal(bits.reshape(3, 4), MASK["net"]["kernel"])


@pytest.mark.parametrize(
    "dtype",
    [
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float4_e2m1fn",
        "int4",
        "complex64",
        "complex128",
        "float16",
        "float64",
        "int8",
        "uint32",
        "bool",
    ],
)
def test_every_dtype(path, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    leaf = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    tree = {"w": leaf, "none": None, "empty": np.zeros((0, 3), dtype)}
    jp.save(path, tree)
    params, _ = jp.load(path, like=tree)
    same(params, tree)
    found = jp.load(path)[0]["w"]
    assert found.dtype == dtype  # nothing is narrowed
    np.testing.assert_array_equal(np.asarray(found), leaf)


def test_leaves_return_to_their_devices(path):
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    where = NamedSharding(mesh, PartitionSpec("x"))
    params = {"kernel": jax.device_put(jnp.arange(8.0).reshape(4, 2), where)}
    mask = {"kernel": jax.device_put(jnp.ones((4, 2), bool), where)}
    jp.save(path, params, mask)
    for tree in jp.load(path, like=params):
        assert tree["kernel"].sharding == where


def test_of_another_network(path):
    jp.save(path, PARAMS, MASK)
    for change, message in (
        (
            {"net": {"kernel": jnp.ones((3, 5)), "bias": jnp.zeros(4)}},
            r"'net/kernel' is float32\[3, 4\]",
        ),
        ({"net": {"kernel": jnp.ones((3, 4), jnp.bfloat16), "bias": jnp.zeros(4)}}, "bfloat16"),
        ({"more": jnp.ones(1)}, "'more' is absent in the file"),
        ({"net": {"kernel": jnp.ones((3, 4))}}, "'net/bias' is float32.* absent in `like`"),
    ):
        with pytest.raises(ValueError, match=message):
            jp.load(path, like=PARAMS | change)


def test_what_cannot_be_saved(path):
    with pytest.raises(ValueError, match="no leaf"):
        jp.save(path, {"a": None})
    with pytest.raises(TypeError, match=r"'key' is no array of numbers.*key_data"):
        jp.save(path, {"key": jax.random.key(0)})
    with pytest.raises(TypeError, match="'rate' is no array of numbers, but float"):
        jp.save(path, {"rate": 0.1})
    with pytest.raises(ValueError, match="same"):
        jp.save(path, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})
    with pytest.raises(ValueError, match="which the file format needs"):
        jp.save(path, {"jaxprune.mask/w": jnp.ones(1)})
    with pytest.raises(ValueError, match="another tree"):
        jp.save(path, PARAMS, {"net": MASK["net"]})
    with pytest.raises(TypeError, match="holds boolean arrays"):
        jp.save(path, PARAMS, PARAMS)
    with pytest.raises(TypeError, match="not JSON"):
        jp.save(path, PARAMS, settings={"a": object()})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        jp.save(path.parent / "nowhere" / "x", PARAMS)
    with pytest.raises(ValueError, match="abstract"):
        jax.jit(lambda p: jp.save(path, p))({"w": jnp.ones(1)})
    assert not path.exists()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    file = tmp_path_factory.mktemp("networks") / "good.safetensors"
    jp.save(file, PARAMS, MASK, settings={"seed": 1})
    return file


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(good, place, bit):
    data = bytearray(good.read_bytes())
    data[math.floor(place * len(data))] ^= 1 << bit
    file = good.with_name("flipped.safetensors")
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"flipped\.safetensors"):
        jp.load(file, like=PARAMS)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_off(good, share):
    data = good.read_bytes()
    file = good.with_name("cut.safetensors")
    file.write_bytes(data[: math.floor(share * len(data))])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        jp.load(file)


@pytest.mark.parametrize(
    "change",
    [
        {"leaves": "[]"},
        {"leaves": json.dumps({"w": {"dtype": "float99", "shape": [2]}})},
        {"leaves": json.dumps({"w": {"dtype": "float32", "shape": [-2]}})},
        {"leaves": json.dumps({"w": {"dtype": "float32", "shape": [3]}})},
        {"leaves": json.dumps({"w": 3})},
        {"leaves": json.dumps({"w": {"dtype": "int4", "shape": [10**9, 10**9]}})},
        {"keys": json.dumps({"w": 3})},
        {"keys": json.dumps({"w": [[1]]})},
        {"keys": json.dumps({})},
        {"format": "jaxprune.mask"},
        {"format_version": "9"},
    ],
)
def test_hostile_metadata(path, change):
    metadata = {
        "format": "jaxprune.network",
        "format_version": "1",
        "settings": "{}",
        "leaves": json.dumps({"w": {"dtype": "float32", "shape": [2]}}),
        "keys": json.dumps({"w": ["w"]}),
    }
    safetensors.numpy.save_file({"w": np.ones(2, np.float32)}, path, metadata=metadata)
    np.testing.assert_array_equal(jp.load(path)[0]["w"], 1.0)
    safetensors.numpy.save_file({"w": np.ones(2, np.float32)}, path, metadata=metadata | change)
    with pytest.raises(ValueError, match=r"network\.safetensors"):
        jp.load(path)
