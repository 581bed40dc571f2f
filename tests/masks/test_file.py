"""Mask files: round trips, other readers, refusals."""

import json
import os
import stat
import zlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune import _safetensors

PARAMS = {"net": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, "out": [jnp.ones((3, 2))]}
KERNEL = jnp.asarray(np.arange(12).reshape(4, 3) % 3 == 0)
MASK = {"net": {"kernel": KERNEL, "bias": None}, "out": [jnp.eye(3, 2, dtype=bool)]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mask.safetensors"


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(x, jax.Array)
        assert x.dtype == bool
        np.testing.assert_array_equal(x, y)


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=3), st.data())
def test_round_trip_of_any_shape(tmp_path_factory, shapes, data):
    path = tmp_path_factory.mktemp("masks") / "mask.safetensors"
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    mask = [jnp.asarray(rng.random(shape) < 0.5) for shape in shapes]
    jp.masks.save(path, mask)
    same(jp.masks.load(path, like=mask), mask)
    same(list(jp.masks.load(str(path)).values()), mask)


def test_without_like_a_flat_dict(path):
    jp.masks.save(path, MASK)
    flat = jp.masks.load(path)
    assert flat.keys() == {"net/kernel", "out/0"}
    np.testing.assert_array_equal(flat["net/kernel"], KERNEL)


def test_like_may_be_parameters_a_mask_or_abstract(path):
    jp.masks.save(path, MASK)
    for like in (PARAMS, MASK, jax.eval_shape(lambda: PARAMS), jax.device_get(PARAMS)):
        same(jp.masks.load(path, like=like), MASK)
    frozen = jp.masks.load(path, like=flax.core.freeze(PARAMS))
    assert isinstance(frozen, flax.core.FrozenDict)
    pruned = jp.apply_mask(PARAMS, jp.masks.load(path, like=PARAMS))
    np.testing.assert_array_equal(pruned["net"]["kernel"] != 0, KERNEL)


def test_settings_and_metadata(path):
    settings = {"sparsity": 0.95, "allocation": "erk", "seeds": (1, 2), "more": {"x": [None, True]}}
    jp.masks.save(path, MASK, settings=settings)
    assert jp.masks.read_settings(path) == {**settings, "seeds": [1, 2]}
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["kept"], metadata["total"]) == ("6", "18")
    assert metadata["jaxprune_version"] == jp.__version__
    jp.masks.save(path, MASK)
    assert jp.masks.read_settings(path) == {}
    jp.masks.save(path, MASK, settings={"seed": 2**128 + 1})
    assert jp.masks.read_settings(path) == {"seed": 2**128 + 1}


def test_a_reserved_name_below_another_is_saved(path):
    mask = {"net": {"__metadata__": KERNEL}}
    jp.masks.save(path, mask)
    same(jp.masks.load(path, like=mask), mask)


def test_other_readers(path):
    jp.masks.save(path, MASK)
    tensors = safetensors.numpy.load_file(path)
    assert {name: (x.dtype, x.shape) for name, x in tensors.items()} == {
        "net/kernel": (np.uint8, (2,)),
        "out/0": (np.uint8, (1,)),
    }
    with safetensors.safe_open(path, framework="numpy") as file:
        shapes = json.loads(file.metadata()["shapes"])
    bits = np.unpackbits(tensors["net/kernel"], bitorder="little", count=12)
    np.testing.assert_array_equal(bits.reshape(shapes["net/kernel"]), KERNEL)


@pytest.mark.filterwarnings("ignore")  # importing torch warns about what we do not use
def test_pytorch_reads_it(path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    jp.masks.save(path, MASK)
    packed = load_file(path)["net/kernel"]
    bits = (packed[:, None] >> torch.arange(8)) & 1
    np.testing.assert_array_equal(bits.flatten()[:12].reshape(4, 3).numpy(), KERNEL)


def test_a_bit_a_weight(path):
    jp.masks.save(path, {"w": jnp.ones((100, 80), bool)})
    assert path.stat().st_size < 100 * 80 // 8 + 600


def test_values_in_any_memory_order(path):
    transposed = np.asarray(KERNEL).T
    assert not transposed.flags.c_contiguous
    jp.masks.save(path, {"w": transposed, "scalar": np.array(True)})
    np.testing.assert_array_equal(jp.masks.load(path)["w"], KERNEL.T)
    assert jp.masks.load(path)["scalar"].shape == ()


def test_sharded_leaves_return_to_their_places(path):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    sharding = NamedSharding(mesh, PartitionSpec("x", "y"))
    values = jnp.asarray(np.arange(32).reshape(4, 8) % 3 == 0)
    mask = {"w": jax.device_put(values, sharding), "v": jnp.ones(2, bool)}
    jp.masks.save(path, mask)
    abstract = {
        "w": jax.ShapeDtypeStruct((4, 8), jnp.float32, sharding=sharding),
        "v": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    for like in (mask, abstract):
        loaded = jp.masks.load(path, like=like)
        same(loaded, mask)
        assert loaded["w"].sharding == sharding
        assert len(loaded["v"].sharding.device_set) == 1
    explicit = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    spread = jax.device_put(jnp.ones((4, 8)), NamedSharding(explicit, PartitionSpec(None, "x")))
    shapes = jax.eval_shape(lambda: {"w": spread * 2.0, "v": jnp.ones(2)})
    same(jp.masks.load(path, like=shapes), jax.device_get(mask) | {"w": values, "v": mask["v"]})


def test_of_another_model(path):
    jp.masks.save(path, MASK)
    with pytest.raises(ValueError, match=r"'out/0' is \(3, 2\) in the file, \(5, 2\) in `like`"):
        jp.masks.load(path, like={**PARAMS, "out": [jnp.ones((5, 2))]})
    with pytest.raises(ValueError, match=r"'out/0' is \(3, 2\) in the file and absent in `like`"):
        jp.masks.load(path, like={"net": PARAMS["net"]})
    larger = {**MASK, "net": {"kernel": KERNEL, "bias": jnp.ones(3, bool)}}
    with pytest.raises(ValueError, match=r"'net/bias' is absent in the file, \(3,\) in `like`"):
        jp.masks.load(path, like=larger)
    # A leaf that is no mask leaf in `like` is none here either.
    with pytest.raises(ValueError, match=r"'net/kernel' is \(4, 3\) .* absent in `like`"):
        jp.masks.load(path, like={**MASK, "net": {"kernel": None, "bias": None}})
    jp.masks.save(path, [jnp.ones(2, bool)] * 5)
    with pytest.raises(ValueError, match=r"of another tree.*'0'.*'1'.*'2'.*; and 2 more\. Pass"):
        jp.masks.load(path, like=PARAMS)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    jp.masks.save(path, MASK)
    before = path.read_bytes()

    def fail(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        jp.masks.save(path, {"w": jnp.ones(2, bool)})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_second_save_replaces_the_first_and_obeys_the_umask(path):
    jp.masks.save(path, {"w": jnp.ones(3, bool)})
    jp.masks.save(path, MASK)
    assert len(jp.masks.load(path)) == 2
    (path.parent / "plain").touch()
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert len(modes) == 1


def test_what_cannot_be_saved(path):
    with pytest.raises(TypeError, match="'w' has dtype float32"):
        jp.masks.save(path, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="no prunable leaf"):
        jp.masks.save(path, {"w": None})
    twice = {"a/b": jnp.ones(2, bool), "a": {"b": jnp.ones(2, bool)}}
    with pytest.raises(ValueError, match="same readable path 'a/b'"):
        jp.masks.save(path, twice)
    with pytest.raises(ValueError, match=r"leaf '__metadata__', a name that .* reserve\. Rename"):
        jp.masks.save(path, {"__metadata__": jnp.ones(2, bool), "w": jnp.ones(2, bool)})
    with pytest.raises(ValueError, match="'w' is abstract"):
        jp.masks.save(path, {"w": jax.ShapeDtypeStruct((2,), bool)})
    with pytest.raises(ValueError, match="'w' is abstract"):
        jax.jit(lambda mask: jp.masks.save(path, mask))({"w": jnp.ones(2, bool)})
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        jp.masks.save(path.parent / "nowhere" / "mask", MASK)
    assert not path.exists()


def test_parts_on_other_processes(monkeypatch):
    mesh = Mesh(np.array(jax.devices()), ("x",))
    leaf = jax.device_put(jnp.ones(8, bool), NamedSharding(mesh, PartitionSpec("x")))
    monkeypatch.setattr(type(leaf), "is_fully_addressable", property(lambda self: False))
    with pytest.raises(ValueError, match="'w' lie on devices of other processes"):
        _safetensors.on_host("w", leaf, what="mask")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"array": np.float32(1)}, r"settings\['array'\] is np.float32\(1.0\), which is not JSON"),
        ({"a": {"b": [1, object]}}, r"settings\['a'\]\['b'\]\[1\] is <class 'object'>"),
        ({"rate": float("nan")}, r"settings\['rate'\] is nan"),
        ({"seed": 10**400}, r"settings\['seed'\] is an integer of 1329 bits.* Pass hex\(value\)"),
        ({"seeds": [-(10**5000)]}, r"settings\['seeds'\]\[0\] is an integer of 16610 bits"),
        ({"map": {1: 2}}, r"settings\['map'\] has the key 1, .* Pass str\(key\)"),
    ],
)
def test_settings_that_are_not_json(path, settings, message):
    with pytest.raises(TypeError, match=message):
        jp.masks.save(path, MASK, settings=settings)
    assert not path.exists()


@pytest.mark.parametrize("read", [jp.masks.load, jp.masks.read_settings])
def test_no_mask_file(path, read):
    with pytest.raises(FileNotFoundError, match=r"no mask file '.*mask.safetensors'"):
        read(path)
    with pytest.raises(FileNotFoundError, match="no mask file"):
        read(path.parent)
    for content in (b"", b"not safetensors at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mask.safetensors' is not a safetensors file"):
            read(path)
    safetensors.numpy.save_file({"w": np.ones(2)}, path)
    with pytest.raises(ValueError, match="not a mask file: its metadata say format None"):
        read(path)
    metadata = {"format": "jaxprune.mask", "format_version": "7", "jaxprune_version": "9.9"}
    safetensors.numpy.save_file({"w": np.ones(2, bool)}, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"format version '7'; .* reads version 1 and 2.*\(9\.9\)"):
        read(path)


def test_damaged_files(path):
    metadata = {"format": "jaxprune.mask", "format_version": "1", "kept": "3", "total": "4"}
    safetensors.numpy.save_file({"w": np.ones(4, bool)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="damaged: it keeps 4 of 4 weights, but says 3 of 4"):
        jp.masks.load(path)
    safetensors.numpy.save_file({"w": np.ones(4, np.float32)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="holds F32 at 'w', not BOOL"):
        jp.masks.load(path)


OLD = {"format": "jaxprune.mask", "format_version": "1", "kept": "2", "total": "3"}


@pytest.mark.parametrize("byte", [2, 255])
def test_bytes_that_are_no_booleans(path, byte):
    """The first version of the format had a byte a weight."""
    safetensors.numpy.save_file({"w": np.array([True, False, True])}, path, metadata=OLD)
    np.testing.assert_array_equal(jp.masks.load(path)["w"], [True, False, True])
    data = bytearray(path.read_bytes())
    data[-1] = byte
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"damaged: 'w' holds the byte {byte}"):
        jp.masks.load(path)


def test_a_checksum_of_the_first_version(path):
    tensors = {"net/kernel": np.asarray(KERNEL), "out/0": np.eye(3, 2, dtype=bool)}
    checksum = 0
    for name, value in tensors.items():
        checksum = zlib.crc32(value.tobytes(), zlib.crc32(name.encode(), checksum))
    metadata = OLD | {"kept": "6", "total": "18", "crc32": str(checksum), "settings": '{"a": 1}'}
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    same(jp.masks.load(path, like=PARAMS), MASK)
    assert jp.masks.read_settings(path) == {"a": 1}
    safetensors.numpy.save_file(tensors, path, metadata=metadata | {"crc32": "7"})
    with pytest.raises(ValueError, match=rf"its checksum is {checksum}, but it says 7"):
        jp.masks.load(path)


def test_every_flipped_bit_and_every_cut_is_found(path):
    jp.masks.save(path, MASK, settings={"seed": 3})
    data = path.read_bytes()
    words = range(8, data.index(b'"net/kernel":{'))  # settings are read without the tensors
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"mask\.safetensors'"):
            jp.masks.load(path)
        if at // 8 in words:
            with pytest.raises(ValueError, match=r"mask\.safetensors'"):
                jp.masks.read_settings(path)
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ValueError, match=r"mask\.safetensors'"):
            jp.masks.load(path)


def test_swapped_bits_are_found(path):
    jp.masks.save(path, {"a": jnp.array([True, False]), "b": jnp.array([False, True])})
    data = path.read_bytes()
    path.write_bytes(data[:-2] + data[-1:] + data[-2:-1])  # the counts are the same
    with pytest.raises(ValueError, match="damaged: its checksum is"):
        jp.masks.load(path)


@pytest.mark.parametrize(
    "shapes",
    [
        '{"w": [3, "x"]}',
        '{"w": [1e999]}',
        '{"w": [3.0]}',
        '{"w": [0, 1180591620717411303424]}',
        "[" * 100_000,
        '{"w": [4, 3]}',
        '{"w": [20]}',
        "{}",
        '{"v": [3]}',
        "[3]",
        '{"w": -1}',
    ],
)
def test_shapes_that_are_damaged(path, shapes):
    metadata = OLD | {"format_version": "2", "settings": "{}", "shapes": shapes}
    _safetensors.write(path, {"w": np.array([5], np.uint8)}, metadata)
    with pytest.raises(ValueError, match=r"mask.safetensors' is damaged"):
        jp.masks.load(path)


def test_a_file_without_a_checksum_is_read(path):
    metadata = {"format": "jaxprune.mask", "format_version": "1", "kept": "4", "total": "4"}
    safetensors.numpy.save_file({"w": np.ones(4, bool)}, path, metadata=metadata)
    assert jp.masks.load(path)["w"].all()


@pytest.mark.parametrize("settings", [None, "", "{", "[1]", "3", "[" * 100_000])
def test_settings_that_are_no_object(path, settings):
    metadata = {"format": "jaxprune.mask", "format_version": "1", "kept": "4", "total": "4"}
    if settings is not None:
        metadata["settings"] = settings
    safetensors.numpy.save_file({"w": np.ones(4, bool)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="damaged: its settings are no JSON object"):
        jp.masks.read_settings(path)
