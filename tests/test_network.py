"""A pruned network in a file: round trips, other readers, damage, refusals."""

import json
import os
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune import _safetensors
from jaxprune._network import _leaves

KERNEL = np.arange(1.0, 13).reshape(4, 3).astype(np.float32)
FLAGS = np.arange(12).reshape(4, 3) % 3 == 0
PARAMS = {
    "net": {"kernel": jnp.asarray(KERNEL * FLAGS), "bias": jnp.ones(3)},
    "out": [jnp.asarray(KERNEL[:2]), None],
}
MASK = {
    "net": {"kernel": jnp.asarray(FLAGS), "bias": None},
    "out": [jnp.ones((2, 3), bool), None],
}
DTYPES = sorted(_leaves.DTYPES)


class Pair(NamedTuple):
    w: jax.Array
    b: jax.Array


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if hasattr(x, "dtype"):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert x == y


def test_round_trip(path):
    jp.save(path, PARAMS, MASK, settings={"method": "imp", "seeds": (1, 2)})
    same(jp.load(path), (PARAMS, MASK))
    for like in (PARAMS, jax.eval_shape(lambda: PARAMS)):
        same(jp.load(path, like=like), (PARAMS, MASK))
    assert jp.read_settings(path) == {"method": "imp", "seeds": [1, 2]}


def test_a_mask_of_a_part(path):
    jp.save(path, PARAMS, {"net": MASK["net"], "out": None})
    params, mask = jp.load(path, like=PARAMS)
    assert jax.tree.leaves(mask["out"]) == []
    jp.assert_sparse(params, mask)
    with pytest.raises(ValueError, match="the mask is of another tree"):
        jp.save(path, PARAMS, {"net": MASK["net"]})


def test_a_file_of_another_version(path):
    metadata = {"format": "jaxprune.network", "format_version": "1"}
    safetensors.numpy.save_file({"w": np.ones(2)}, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"format version '1'; jaxprune .* reads version 2"):
        jp.load(path)


def test_without_a_mask(path):
    jp.save(path, PARAMS)
    params, mask = jp.load(path)
    same(params, PARAMS)
    assert mask is None
    assert jp.load(path, like=PARAMS)[1] is None
    assert jp.read_settings(path) == {}


def test_a_shrunk_network(path):
    def apply(params, x):
        return jax.nn.relu(x @ params["w1"]) @ params["w2"]

    params = {"w1": jnp.asarray(KERNEL), "w2": jnp.ones((3, 2))}
    x = jnp.ones((1, 4))
    groups = jp.structured.channel_groups(apply, params, x)
    masks = jp.structured.masks(groups, [jnp.array([True, False, True])])
    _, small = jp.structured.shrink(apply, params, masks, x)
    assert small["w1"].shape == (4, 2)
    jp.save(path, small)
    same(jp.load(path, like=small)[0], small)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(path, name):
    rng = np.random.default_rng(0)
    dtype = _leaves.DTYPES[name]
    bits = {"float4_e2m1fn": 4, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2}.get(name, 8)
    raw = rng.integers(0, 2 if name == "bool" else 1 << bits, 6 * dtype.itemsize, np.uint8)
    values = raw.view(dtype).reshape(2, 3)
    params = {"w": values, "scalar": values[0, 0], "none": values[:0], "cube": values[None]}
    mask = {"w": values == values, "scalar": None, "none": None, "cube": None}
    jp.save(path, params, mask)
    loaded, flags = jp.load(path, like=params)
    same(loaded, params)
    assert isinstance(flags["w"], jax.Array)
    np.testing.assert_array_equal(flags["w"], mask["w"])
    free, _ = jp.load(path)
    narrowed = jax.dtypes.canonicalize_dtype(dtype) != dtype
    assert (type(free["w"]) is np.ndarray) == narrowed
    assert free["w"].dtype == dtype
    assert np.asarray(free["w"]).tobytes() == values.tobytes()
    if not narrowed:
        same(jp.load(path, like=free)[0], free)


def test_numbers_and_numpy_leaves(path):
    params = {
        "w": np.ones((2, 2), np.float64),
        "swapped": np.arange(3, dtype=">i4"),
        "transposed": np.asarray(KERNEL).T,
        "numbers": [1, 2.5, True, 3j],
        "numpy": np.float32(2),
    }
    jp.save(path, params)
    loaded, _ = jp.load(path, like=params)
    same(loaded["numbers"], params["numbers"])
    assert isinstance(loaded["numpy"], np.generic)
    for name in ("w", "swapped", "transposed"):
        assert isinstance(loaded[name], np.ndarray)
        np.testing.assert_array_equal(loaded[name], params[name])
    same(jp.load(path)[0]["numbers"], params["numbers"])
    with pytest.raises(ValueError, match="'numbers/1' is float in the file, int in `like`"):
        jp.load(path, like={**params, "numbers": [1, 2, True, 3j]})


def test_paths_that_read_alike(path):
    params = {"a": {"b": jnp.zeros(2)}, "a/b": jnp.ones(2), "__metadata__": jnp.full(2, 3.0)}
    params |= {"jaxprune.mask": {"a": {"b": jnp.full(2, 4.0)}}}
    mask = jax.tree.map(lambda x: x > 0, params)
    jp.save(path, params, mask)
    same(jp.load(path), (params, mask))
    same(jp.load(path, like=params), (params, mask))
    tensors = safetensors.numpy.load_file(path)
    assert [tensors[f"a/b{end}"][0] for end in ("", "#2")] == [0, 1]
    with pytest.raises(ValueError, match=r"the same keys, written as words, at '1'"):
        jp.save(path, _Odd([jnp.ones(2), jnp.ones(2)]))


@jax.tree_util.register_pytree_with_keys_class
class _Odd:
    """A container with two children of one key."""

    def __init__(self, children):
        self.children = children

    def tree_flatten_with_keys(self):
        keys = [jax.tree_util.DictKey(1), jax.tree_util.DictKey("1")]
        return list(zip(keys, self.children, strict=True)), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(children)


def test_containers(path):
    pair = Pair(jnp.ones((2, 2)), jnp.zeros(2))
    params = {"pair": pair, "tuple": (jnp.ones(1),), 3: jnp.ones(3), 7: {}}
    params = {str(k) if k == "pair" or k == "tuple" else k: v for k, v in params.items()}
    params = {
        "outer": {k: v for k, v in params.items() if isinstance(k, str)},
        "numbers": {k: v for k, v in params.items() if isinstance(k, int)},
        "holes": [(), jnp.ones(1)],
    }
    mask = jax.tree.map(lambda x: x > 0 if x.ndim == 2 else None, params)
    jp.save(path, params, mask)
    same(jp.load(path, like=params), (params, mask))
    free, flags = jp.load(path)
    assert free["outer"]["pair"].keys() == {"w", "b"}
    assert isinstance(free["outer"]["tuple"], list)
    assert free["numbers"].keys() == {3, 7}
    assert free["holes"][0] is None
    assert flags["outer"]["pair"]["w"].all()
    frozen = flax.core.freeze(params)
    same(jp.load(path, like=frozen)[0], frozen)
    for tree in (jnp.ones(3), [jnp.ones(3)], Pair(jnp.ones(1), jnp.ones(2))):
        jp.save(path, tree)
        same(jp.load(path, like=tree)[0], tree)
    same(jp.load(path)[0], {"w": jnp.ones(1), "b": jnp.ones(2)})


def test_other_readers(path):
    jp.save(path, PARAMS, MASK)
    tensors = safetensors.numpy.load_file(path)
    assert tensors.keys() == {
        "net/kernel", "net/bias", "out/0", "jaxprune.mask/net/kernel", "jaxprune.mask/out/0"
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["net/kernel"], KERNEL * FLAGS)
    bits = tensors["jaxprune.mask/net/kernel"]
    flags = np.unpackbits(bits, count=12, bitorder="little").reshape(4, 3)
    np.testing.assert_array_equal(flags, FLAGS)
    with safetensors.safe_open(path, framework="numpy") as file:
        leaves = json.loads(file.metadata()["leaves"])
    assert leaves[1]["path"] == ["net", "kernel"]
    assert (leaves[1]["dtype"], leaves[1]["shape"]) == ("float32", [4, 3])


@pytest.mark.filterwarnings("ignore")  # importing torch warns about what we do not use
def test_pytorch_reads_it(path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    params = {**PARAMS, "half": jnp.ones(2, jnp.bfloat16), "short": jnp.ones(2, jnp.float8_e5m2)}
    jp.save(path, params)
    tensors = load_file(path)
    np.testing.assert_array_equal(tensors["net/kernel"].numpy(), KERNEL * FLAGS)
    assert tensors["half"].dtype == torch.bfloat16
    assert tensors["short"].dtype == torch.float8_e5m2


def test_sharded_leaves_return_to_their_places(path):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    sharding = NamedSharding(mesh, PartitionSpec("x", "y"))
    weights = jax.device_put(jnp.arange(32.0).reshape(4, 8), sharding)
    params = {"w": weights, "v": jax.device_put(jnp.ones(2), jax.devices()[3])}
    mask = {"w": weights > 3, "v": None}
    jp.save(path, params, mask)
    loaded, flags = jp.load(path, like=params)
    same(jax.device_get((loaded, flags)), jax.device_get((params, mask)))
    assert loaded["w"].sharding == sharding == flags["w"].sharding
    assert loaded["v"].devices() == {jax.devices()[3]}


def test_of_another_network(path):
    jp.save(path, PARAMS, MASK)
    net = PARAMS["net"]
    with pytest.raises(ValueError, match=r"'net/bias' is float32\[3\] in the file, float32\[4\]"):
        jp.load(path, like={**PARAMS, "net": {**net, "bias": jnp.ones(4)}})
    with pytest.raises(ValueError, match=r"'net/bias' is float32\[3\] in the file, bfloat16\[3\]"):
        jp.load(path, like={**PARAMS, "net": {**net, "bias": jnp.ones(3, jnp.bfloat16)}})
    with pytest.raises(ValueError, match=r"'net/bias' is float32\[3\] in the file, absent in"):
        jp.load(path, like={**PARAMS, "net": {**net, "bias": None}})
    with pytest.raises(ValueError, match=r"'more' is absent in the file, float32\[3\] in `like`"):
        jp.load(path, like={**PARAMS, "more": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"another network.*; and 2 more\. Pass as `like`"):
        jp.load(path, like=[jnp.ones(1)] * 2)


def test_what_cannot_be_saved(path):
    with pytest.raises(ValueError, match=r"no parameter to save: \{'a': \{\}\}"):
        jp.save(path, {"a": {}})
    with pytest.raises(TypeError, match="'w' holds random keys"):
        jp.save(path, {"w": jax.random.key(0)})
    with pytest.raises(TypeError, match="'w' is a str of dtype <U5, which no file"):
        jp.save(path, {"w": "words"})
    with pytest.raises(TypeError, match="'w' is a int of dtype object"):
        jp.save(path, {"w": 2**70})
    with pytest.raises(ValueError, match="'w' is abstract"):
        jax.jit(lambda x: jp.save(path, {"w": x}))(jnp.ones(2))
    with pytest.raises(ValueError, match="'w' is abstract"):
        jp.save(path, {"w": jax.ShapeDtypeStruct((2,), float)})
    with pytest.raises(ValueError, match="the mask has shape"):
        jp.save(path, PARAMS, {**MASK, "out": [jnp.ones((3, 3), bool), None]})
    with pytest.raises(ValueError, match="the mask has a leaf at 'out/1'"):
        jp.save(path, PARAMS, {**MASK, "out": [None, jnp.ones(3, bool)]})
    with pytest.raises(TypeError, match="'net/bias' has dtype float32"):
        jp.save(path, PARAMS, PARAMS)
    with pytest.raises(ValueError, match="the mask has no leaf"):
        jp.save(path, PARAMS, jax.tree.map(lambda _: None, PARAMS))
    with pytest.raises(TypeError, match=r"settings\['f'\] is <built-in function len>"):
        jp.save(path, PARAMS, settings={"f": len})
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        jp.save(path.parent / "nowhere" / "file", PARAMS)
    deep = jnp.ones(1)
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match="lies in 300 containers, but a file holds at most 200"):
        jp.save(path, deep)
    assert os.listdir(path.parent) == []


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    jp.save(path, PARAMS)
    before = path.read_bytes()

    def fail(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        jp.save(path, PARAMS, MASK)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_no_network_file(path):
    with pytest.raises(FileNotFoundError, match=r"no network file '.*network.safetensors'"):
        jp.load(path)
    jp.masks.save(path, MASK)
    with pytest.raises(ValueError, match=r"not a network file: .*'jaxprune.mask', not 'jax"):
        jp.load(path)
    jp.save(path, PARAMS, MASK)
    with pytest.raises(ValueError, match=r"not a mask file: .*'jaxprune.network', not"):
        jp.masks.load(path)


def test_every_flipped_bit_and_every_cut_is_found(path):
    params = {"w": jnp.ones(2), "f": [True, None]}
    jp.save(path, params, {"w": jnp.ones(2, bool), "f": [None, None]})
    data = path.read_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << 5 * at % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"network\.safetensors'"):
            jp.load(path)
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ValueError, match=r"network\.safetensors'"):
            jp.load(path)


W = {"path": ["w"], "tensor": "w", "dtype": "float32", "shape": [2], "mask": None, "number": False}


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        (None, "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("3", "cannot be read"),
        ([], "no tree"),
        ([{**W, "more": 1}], "cannot be read"),
        ([{**W, "dtype": "object"}], "cannot be read"),
        ([{**W, "tensor": ["w"]}], "cannot be read"),
        ([{**W, "path": [{"class": "os"}]}], "cannot be read"),
        ([{**W, "path": [None]}], r"\(None,\) is no path"),
        ([{**W, "path": [-1]}], r"\(-1,\) is no path"),
        ([{**W, "path": ["w"] * 1000}], "cannot be read"),
        ([{**W, "shape": [2.0]}], "'w' has no shape"),
        ([{**W, "shape": [-2, -1]}], "'w' has no shape"),
        ([{**W, "shape": [0, 2**62]}], "'w' has no shape"),
        ([{**W, "shape": [2**59]}], "its tensor 'w' is"),
        ([{**W, "shape": [3]}], r"'w' is \('F32', \(2,\)\), but should be \('F32', \(3,\)\)"),
        ([{**W, "dtype": "int32"}], r"'w' is \('F32', \(2,\)\), but should be \('I32'"),
        ([{**W, "dtype": "float4_e2m1fn"}], r"but should be \('U8', \(2,\)\)"),
        ([{**W, "mask": "w"}], "its own mask"),
        ([{**W, "mask": "m"}], r"its tensor 'm' is None, but should be \('U8', \(1,\)\)"),
        ([{**W, "mask": "w", "tensor": None}], "a mask and no weights"),
        ([{**W, "number": True}], "no number of Python"),
        ([W, {**W, "path": ["v"]}], "'v' is another leaf, too"),
        ([W, {**W, "tensor": None}], "cannot be read"),
        ([W, {**W, "tensor": None, "path": ["w", "v"]}], "no tree"),
        ([W, {**W, "tensor": None, "path": []}], "no tree"),
        ([{**W, "tensor": None}], r"its tensor 'w' is \('F32', \(2,\)\), but should be None"),
    ],
)
def test_hostile_metadata(path, leaves, message):
    metadata = {"format": "jaxprune.network", "format_version": "2", "settings": "{}"}
    if leaves is not None:
        metadata["leaves"] = leaves if isinstance(leaves, str) else json.dumps(leaves)
    _safetensors.write(path, {"w": np.ones(2, np.float32)}, metadata)
    with pytest.raises(ValueError, match=f"network.safetensors' is damaged: .*{message}"):
        jp.load(path)


def test_bytes_that_are_no_booleans(path):
    leaf = {**W, "dtype": "bool"}
    metadata = {"format": "jaxprune.network", "format_version": "2", "leaves": json.dumps([leaf])}
    _safetensors.write(path, {"w": np.array([0, 7], np.uint8).view(bool)}, metadata)
    with pytest.raises(ValueError, match="'w' holds a byte that is no boolean"):
        jp.load(path)
    with pytest.raises(ValueError, match="its settings are no JSON object"):
        jp.read_settings(path)
