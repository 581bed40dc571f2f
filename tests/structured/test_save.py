"""Shrunk networks in files and pickles: other processes, damage, other functions, other formats."""

import copy
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxprune as jp
from jaxprune import _network
from jaxprune._network import _leaves
from tests.snippets import ROOT
from tests.structured import saved
from tests.structured.checks import random_kept, random_params

OTHER = """
import sys, numpy as np, jax
folder = sys.argv[1]
exported = jax.export.deserialize(bytearray(open(folder + "/exported", "rb").read()))
small = dict(np.load(folder + "/small.npz"))
np.save(folder + "/of_other.npy", exported.call(small, np.load(folder + "/x.npy")))
assert not any(name.startswith("jaxprune") for name in sys.modules)
"""


def apply(params, x):
    return jnp.tanh(x @ params["a"] + params["bias"][None]) @ params["z"]


X = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)
PARAMS = {
    "a": np.linspace(-1, 2, 12, dtype="float32").reshape(4, 3),
    "bias": np.arange(3, dtype="float32"),
    "z": np.linspace(1, 2, 6, dtype="float32").reshape(3, 2),
}


@pytest.fixture(scope="module")
def network():
    groups = jp.structured.channel_groups(apply, PARAMS, X)
    masks = jp.structured.masks(groups, [np.array([True, False, True])])
    return (*jp.structured.shrink(apply, PARAMS, masks, X), masks)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small.safetensors"


def by_hand(x, kept=(0, 2)):
    """The network with the columns and rows that stay, in NumPy."""
    kept = list(kept)
    hidden = np.tanh(x @ PARAMS["a"][:, kept] + PARAMS["bias"][kept])
    return hidden @ PARAMS["z"][kept]


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip(path, network):
    _, small, masks = network
    jp.structured.save(path, small, masks, settings={"score": "l1"})
    loaded_apply, loaded = jp.structured.load(path, apply, jax.ShapeDtypeStruct((5, 4), "float32"))
    same(loaded, jax.device_get(small))
    np.testing.assert_allclose(loaded_apply(loaded, X), by_hand(X), rtol=1e-5)
    assert jp.read_settings(path) == {"score": "l1"}
    same(jp.load(path)[0], jax.device_get(small))  # the parameters alone
    for like in (PARAMS, small, jax.eval_shape(lambda: small)):
        same(jp.structured.load(path, apply, X, like=like)[1], jax.device_get(small))
    dense, left = sum(x.nbytes for x in PARAMS.values()), sum(x.nbytes for x in small.values())
    tensors = safetensors.numpy.load_file(path)
    assert sum(x.nbytes for x in tensors.values()) <= left + len(PARAMS) < dense
    bits = np.unpackbits(tensors["jaxprune.kept/a"], count=7, bitorder="little")
    assert bits.tolist() == [1, 1, 1, 1, 1, 0, 1]


def test_nothing_and_other_zeros(path):
    # Zeros that are no channel's stay, also whole rows of an axis that cannot go.
    mask = np.ones((4, 3), bool)
    mask[:, 1] = mask[2] = mask[0, 0] = False
    masks = {"a": mask, "bias": mask[0] | [True, False, True], "z": np.ones((3, 2), bool)}
    masks["z"][1] = False
    _, small = jp.structured.shrink(apply, PARAMS, masks, X)
    jp.structured.save(path, small, masks)
    small_apply, loaded = jp.structured.load(path, apply, X)
    same(loaded, jax.device_get(small))
    assert loaded["a"].shape == (4, 2)
    expected = apply(jp.apply_mask(PARAMS, masks), X)
    np.testing.assert_allclose(small_apply(loaded, X), expected, rtol=1e-5)
    whole = jax.tree.map(lambda x: jnp.asarray(x), PARAMS)
    for masks in ({"a": None, "bias": None, "z": None}, jax.tree.map(lambda x: x == x, PARAMS)):
        jp.structured.save(path, whole, masks)
        small_apply, loaded = jp.structured.load(path, apply, X)
        same(loaded, jax.device_get(whole))


def test_trained_and_other_types(path, network):
    _, small, masks = network
    half = jax.tree.map(lambda x: (x * 2).astype(jnp.bfloat16), small)
    jp.structured.save(path, half, masks)
    small_apply, loaded = jp.structured.load(path, apply, X.astype(jnp.bfloat16))
    assert loaded["a"].dtype == jnp.bfloat16
    assert small_apply(loaded, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"'a' is bfloat16\[4, 3\] in the file, float32\[4, 3\]"):
        jp.structured.load(path, apply, X, like=PARAMS)
    double = {**jax.device_get(small), "bias": np.ones(2)}
    jp.structured.save(path, double, masks)
    with pytest.raises(ValueError, match=r"'bias' in .* is float64, which JAX has only with"):
        jp.structured.load(path, apply, X)


def shrunk(name):
    function, _, x, _ = saved.NETWORKS[name]
    params = random_params(saved.abstract(name))
    groups = jp.structured.channel_groups(function, params, x)
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    return (*jp.structured.shrink(function, params, masks, x), masks, params)


@pytest.mark.slow
def test_all_in_another_process(tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    expected = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name, (function, _, x, needs_like) in saved.NETWORKS.items():
            small_apply, small, masks, params = shrunk(name)
            assert any(
                a.shape != b.shape
                for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(params), strict=True)
            )
            file = tmp_path / f"{name}.safetensors"
            # Both forms: what a function is must be the same words in another process.
            jp.structured.save(file, small, masks if name == "tied" else small_apply)
            like = saved.abstract(name) if needs_like else None
            _, loaded = jp.structured.load(file, function, x, like=like)
            same(loaded, small)
            # What the other process has to compute: the masked network.
            for i, inputs in enumerate((x, np.concatenate([x, x]))):
                out = jax.jit(function)(jp.apply_mask(params, masks), inputs)
                leaves = jax.tree.leaves(out[0] if isinstance(out, tuple) else out)
                expected |= {f"{name}/{i}/{k}": leaf for k, leaf in enumerate(leaves)}
            if name == "mlp":
                (tmp_path / "pickle").write_bytes(pickle.dumps((small_apply, small)))
                text = cloudpickle.dumps(
                    (
                        jp.structured.shrink(
                            lambda params, x: saved.mlp(params, x), params, masks, x
                        )[0],
                        small,
                    )
                )
                (tmp_path / "cloudpickle").write_bytes(text)
                masked = saved.mlp(jp.apply_mask(params, masks), x)
                expected |= {"pickle": masked, "cloudpickle": masked}
    _exported(tmp_path)
    run = [sys.executable, "-m", "tests.structured.saved", str(tmp_path)]
    other = [sys.executable, "-c", OTHER, str(tmp_path)]
    for command in (run, other):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    results = np.load(tmp_path / "results.npz")
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, rtol=2e-5, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(np.load(tmp_path / "of_other.npy"), by_hand(X), rtol=1e-5)


def _exported(folder):
    """Compiled code that needs no jaxprune; see docs/shrunk_networks.md."""
    groups = jp.structured.channel_groups(apply, PARAMS, X)
    masks = jp.structured.masks(groups, [np.array([True, False, True])])
    small_apply, small = jp.structured.shrink(apply, PARAMS, masks, X)
    exported = jax.export.export(jax.jit(small_apply))(small, X)
    (folder / "exported").write_bytes(exported.serialize())
    np.savez(folder / "small.npz", **jax.device_get(small))
    np.save(folder / "x.npy", X)


def test_orbax(tmp_path, network):
    import orbax.checkpoint as ocp

    _, small, masks = network
    jp.masks.save(tmp_path / "masks", masks)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "small", small)
        checkpointer.wait_until_finished()
        dense = jax.eval_shape(lambda: PARAMS)
        small_apply, shapes = jp.structured.shrink(
            apply, dense, jp.masks.load(tmp_path / "masks", like=dense), X
        )
        assert shapes["a"].shape == (4, 2)
        restored = checkpointer.restore(tmp_path / "small", shapes)
    np.testing.assert_allclose(small_apply(restored, X), by_hand(X), rtol=1e-5)


def test_pickles_and_copies(network):
    small_apply, small, _ = network
    for other in (pickle.loads(pickle.dumps(small_apply)), copy.deepcopy(small_apply)):
        np.testing.assert_array_equal(other(small, X), small_apply(small, X))
        more = np.concatenate([X, X, X])
        np.testing.assert_allclose(other(small, more), by_hand(more), rtol=1e-5)
        with pytest.raises(ValueError, match=r"'a' has shape \(4, 3\), but what is left"):
            other(PARAMS, X)
    placed = jax.device_put(PARAMS, jax.devices()[1])  # places are not those of another process
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed
    )
    masks = jax.tree.map(lambda x: x == x, PARAMS)
    moved, _ = jp.structured.shrink(apply, abstract, masks, X)
    assert pickle.loads(pickle.dumps(moved))(PARAMS, X).shape == (2, 2)


def test_other_functions_are_refused(path, network):
    _, small, masks = network
    jp.structured.save(path, small, masks)
    load = jp.structured.load

    def in_the_result(p, x):
        return apply(p, x), p["bias"] + 1

    def of_other_channels(p, x):
        return jnp.tanh(x @ p["a"] + jnp.roll(p["bias"], 1)[None]) @ p["z"]

    message = (
        r"small.safetensors' does not fit.*'a' was shrunk from \(4, 3\) to \(4, 2\), but this "
    )
    with pytest.raises(ValueError, match=message + r"function would leave \(4, 3\) \(axis 1: it r"):
        load(path, in_the_result, X)
    with pytest.raises(ValueError, match=r"the masks split channel 1 of 'a'"):
        load(path, of_other_channels, X)
    with pytest.raises(ValueError, match=r"does not fit .*cannot be traced.*KeyError: 'other'"):
        load(path, lambda p, x: x @ p["other"], X)
    with pytest.raises(ValueError, match=r"cannot be traced with inputs of shapes \[0: \(2, 5\)"):
        load(path, apply, np.ones((2, 5), "float32"))
    wide = {**PARAMS, "a": np.ones((4, 5), "float32")}
    with pytest.raises(ValueError, match=r"'a' is float32\[4, 3\] in the file, float32\[4, 5\]"):
        load(path, apply, X, like=wide)
    with pytest.raises(ValueError, match=r"'bias' is float32\[3\] in the file, absent in `like`"):
        load(path, apply, X, like={"a": PARAMS["a"], "z": PARAMS["z"]})


def test_files_of_another_kind(path, network):
    _, small, masks = network
    with pytest.raises(FileNotFoundError, match="no file of a shrunk network"):
        jp.structured.load(path, apply, X)
    jp.save(path, small)
    with pytest.raises(ValueError, match=r"not a file of a shrunk network: .*'jaxprune.network'"):
        jp.structured.load(path, apply, X)
    jp.structured.save(path, small, masks)
    with pytest.raises(ValueError, match=r"not a mask file"):
        jp.masks.load(path)


def test_what_cannot_be_saved(path, network):
    _, small, masks = network
    save = jp.structured.save
    with pytest.raises(ValueError, match=r"'a' has shape \(4, 3\), but its mask of shape \(4, 2\)"):
        save(path, PARAMS, {"a": np.ones((4, 2), bool), "bias": None, "z": None})
    with pytest.raises(ValueError, match=r"'a' has shape \(4, 2\), but .*\(4, 3\) leaves \(4, 3\)"):
        save(path, small, jax.tree.map(lambda x: x == x, PARAMS))
    with pytest.raises(ValueError, match=r"masks are of another network: they have 'b', which"):
        save(path, small, {**masks, "b": np.ones(2, bool)})
    with pytest.raises(TypeError, match=r"a mask is bool \(True = kept\), but 'a' is float32"):
        save(path, small, PARAMS)
    with pytest.raises(ValueError, match="masks' leaf 'a' is abstract"):
        jax.jit(lambda m: save(path, small, m))(masks)
    assert os.listdir(path.parent) == []


def test_every_flipped_bit_and_every_cut_is_found(path):
    params = {"a": jnp.ones((1, 2)), "z": jnp.ones((2, 1))}
    masks = {"a": np.array([[True, False]]), "z": np.array([[True], [False]])}

    def function(p, x):
        return jnp.tanh(x @ p["a"]) @ p["z"]

    x = np.ones((1, 1), "float32")
    _, small = jp.structured.shrink(function, params, masks, x)
    jp.structured.save(path, small, masks)
    data = path.read_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << 5 * at % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"small\.safetensors'"):
            jp.structured.load(path, function, x)
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ValueError, match=r"small\.safetensors'"):
            jp.structured.load(path, function, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"full": [4, 1]}, "another rank"),
        ({"full": [4]}, "another rank"),
        ({"full": None}, "another rank"),
        ({"kept": None}, "another rank"),
        ({"full": [4, -3]}, "another rank"),
        ({"full": 3}, "cannot be read"),
        ({"kept": "a"}, "its own mask"),
        ({"kept": "jaxprune.kept/z"}, "is another leaf, too"),
        ({"full": [4, 9]}, r"its tensor 'jaxprune.kept/a' is \('U8', \(1,\)\), but should be"),
    ],
)
def test_wrong_words_are_found(path, network, monkeypatch, change, message):
    """Files that a faulty writer made: the checksums are right."""
    _, small, masks = network
    plain = _leaves.Leaf.to_json
    monkeypatch.setattr(
        _leaves.Leaf, "to_json", lambda self: plain(self) | (change if self.name == "a" else {})
    )
    jp.structured.save(path, small, masks)
    with pytest.raises(ValueError, match=message):
        jp.structured.load(path, apply, X)


def test_more_positions_than_are_there(path, network):
    _, small, _ = network
    cuts = {("a",): _network.Cut((4, 3), (np.ones(4, bool), np.ones(3, bool)))}
    _network.write(path, small, cuts=cuts)
    with pytest.raises(ValueError, match="'a' is smaller than what is left of it"):
        jp.structured.load(path, apply, X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_onnx(tmp_path, network):
    jax2onnx, onnx = pytest.importorskip("jax2onnx"), pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    small_apply, small, _ = network
    model = jax2onnx.to_onnx(lambda x: small_apply(small, x), [X.shape])
    onnx.save(model, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (result,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(result, by_hand(X), rtol=1e-5)


class TestFunction:
    """Files that say which function they belong to."""

    def test_the_same_function_loads(self, path, network):
        small_apply, small, _ = network
        jp.structured.save(path, small, small_apply)
        for x in (X, np.ones((5, 4), "float32")):  # another batch than that of the file
            loaded_apply, loaded = jp.structured.load(path, apply, x)
            np.testing.assert_allclose(loaded_apply(loaded, X), by_hand(X), rtol=1e-5)
        jp.structured.save(path, loaded, loaded_apply)  # what was loaded saves
        jp.structured.load(path, jax.jit(lambda p, x: apply(p, x)), X, other_function=True)
        again = pickle.loads(pickle.dumps(small_apply))
        jp.structured.save(path, small, again)
        with pytest.raises(ValueError, match="something else"):
            jp.structured.load(path, lambda p, x: apply(p, x) + 1, X)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (
                lambda p, x: jax.lax.logistic(x @ p["a"] + p["bias"][None]) @ p["z"],
                r"0 logistic, now 1, 1 tanh, now 0\. If that is meant .*other_function=True",
            ),
            (lambda p, x: apply(p, x) * 2, r"0 mul, now 1"),
            (
                lambda p, x: jnp.tanh(x @ p["a"] + p["bias"][None]) @ p["z"][:, ::-1],
                r"0 rev, now 1",
            ),
        ],
    )
    def test_another_function_is_refused(self, path, network, other, message):
        small_apply, small, _ = network
        jp.structured.save(path, small, small_apply)
        with pytest.raises(ValueError, match=r"computes something else.*: " + message):
            jp.structured.load(path, other, X)
        jp.structured.load(path, other, X, other_function=True)

    def test_numbers_order_and_captured_arrays_count(self, path):
        def of(number, captured, *, first=jnp.tanh, then=jnp.sin):
            return lambda p, x: then(first(x @ p["a"])) * number @ p["z"] + captured

        table = np.linspace(0, 1, 4, dtype="float32").reshape(2, 2)
        params = {"a": PARAMS["a"], "z": PARAMS["z"]}
        masks = {"a": np.array([[True, False, True]] * 4), "z": np.array([[True, True]] * 3)}
        masks["z"][1] = False
        small_apply, small = jp.structured.shrink(of(2.0, table), params, masks, X)
        jp.structured.save(path, small, small_apply)
        jp.structured.load(path, of(2.0, table + 1e-6), X)  # rounding is no other function
        with pytest.raises(ValueError, match="values of a captured array, float32"):
            jp.structured.load(path, of(2.0, table[::-1].copy()), X)
        with pytest.raises(ValueError, match="the same operations, with other shapes or numbers"):
            jp.structured.load(path, of(3.0, table), X)
        with pytest.raises(ValueError, match="the same operations"):
            jp.structured.load(path, of(2.0, table, first=jnp.sin, then=jnp.tanh), X)

    def test_another_release_of_jax_warns(self, path, network, monkeypatch):
        small_apply, small, _ = network
        with monkeypatch.context() as patch:
            patch.setattr(jax, "__version__", "0.0.1")
            jp.structured.save(path, small, small_apply)
        jp.structured.load(path, apply, X)  # the same program: nothing to say
        with pytest.warns(UserWarning, match=r"0 mul, now 1\. .* JAX alone, which was 0\.0\.1"):
            jp.structured.load(path, lambda p, x: apply(p, x) * 2, X)

    def test_what_cannot_be_compared_warns(self, path, network):
        small_apply, small, _ = network
        jp.structured.save(path, small, small_apply)

        def for_five(p, x):
            return apply(p, x.reshape(5, 4))

        with pytest.warns(UserWarning, match="could not be compared .*TypeError"):
            jp.structured.load(path, for_five, np.ones((5, 4), "float32"))
        with pytest.raises(ValueError, match=r"saved with inputs float32\[2, 4\], and loads with"):
            jp.structured.load(path, lambda p, x, y: apply(p, x), X, X)

    def test_wrong_parameters_are_not_saved(self, path, network):
        with pytest.raises(ValueError, match=r"'a' has shape \(4, 3\), but what is left of it"):
            jp.structured.save(path, PARAMS, network[0])


def test_shrunk_twice(path):
    params = {
        "a": np.linspace(-1, 2, 20, dtype="float32").reshape(4, 5),
        "bias": np.arange(5, dtype="float32"),
        "z": np.linspace(1, 2, 10, dtype="float32").reshape(5, 2),
    }
    function, small = apply, params
    for stays in ([True, False, True, True, True], [True, True, False, True]):
        groups = jp.structured.channel_groups(function, small, X)
        masks = jp.structured.masks(groups, [np.array(stays)])
        function, small = jp.structured.shrink(function, small, masks, X)
    kept = [0, 2, 4]
    expected = np.tanh(X @ params["a"][:, kept] + params["bias"][kept]) @ params["z"][kept]
    jp.structured.save(path, small, function)
    loaded_apply, loaded = jp.structured.load(path, apply, X)
    same(loaded, jax.device_get(small))
    np.testing.assert_array_equal(loaded["a"], params["a"][:, kept])
    np.testing.assert_allclose(loaded_apply(loaded, X), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="1 tanh, now 0"):
        jp.structured.load(path, lambda p, x: (x @ p["a"] + p["bias"][None]) @ p["z"], X)
