"""Pruning in the order of the program."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from tests.layerwise import networks

lw = jp.layerwise


@pytest.fixture(scope="module")
def scanned():
    batches = networks.batches((2, 5, 8))
    model = networks.Scanned()
    return model, model.init(jax.random.key(1), batches[0]), batches


def assert_same(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance)


def test_each_layer_sees_what_is_pruned_already():
    """Against the loop over layers, written out."""
    apply, params = networks.mlp()
    batches = networks.batches((30, 6))
    x = np.concatenate(batches)
    new, mask = lw.prune(apply, params, batches, 0.5, method=lw.sparsegpt(), refit=True)
    first, kept = lw.solve(lw.sparsegpt(), params["a"]["w"], x.T @ x, 0.5)
    first = lw.refit(params["a"]["w"], kept, x.T @ x)
    hidden = np.tanh(x @ first + 1.0)
    second, also = lw.solve(lw.sparsegpt(), params["b"]["w"], hidden.T @ hidden, 0.5)
    second = lw.refit(params["b"]["w"], also, hidden.T @ hidden)
    np.testing.assert_array_equal(mask["a"]["w"], kept)
    np.testing.assert_array_equal(mask["b"]["w"], also)
    assert mask["a"]["b"] is None
    assert_same(new, {"a": {"w": first, "b": params["a"]["b"]}, "b": {"w": second}})


def test_a_scan_is_pruned_as_if_it_were_written_out(scanned):
    model, params, batches = scanned
    new, mask = lw.prune(model.apply, params, batches, 0.5, method=lw.wanda())
    plain, other = lw.prune(
        networks.Unrolled().apply, networks.unstacked(params), batches, 0.5, method=lw.wanda()
    )
    assert_same(networks.unstacked(new), plain)
    assert_same(networks.unstacked(mask), other)
    assert jp.sparsity(mask) == 0.5


def test_equal_layers_share_programs(scanned, monkeypatch):
    from jaxprune.layerwise import _walkthrough as walkthrough

    runners = []
    begun = walkthrough.begun

    def noting(*args):
        walk = begun(*args)
        runners.append(walk.runner)
        return walk

    monkeypatch.setattr("jaxprune.layerwise._prune.begun", noting)
    model, params, batches = scanned
    lw.prune(model.apply, params, batches, 0.5, method=lw.wanda())
    # Attention's inputs, its output, up, down: to look at them and to go on; and the two ends.
    assert runners[0].compiled <= 2 * 4 + 4


@pytest.mark.parametrize("pattern", ["unstructured", "outputs", "nm", "block"])
def test_counts_are_exact(scanned, pattern):
    model, params, batches = scanned
    options = {
        "unstructured": {"sparsity": 0.3, "allocation": jp.masks.globally()},
        "outputs": {"sparsity": 0.25, "allocation": jp.masks.per_output(axis=-1)},
        "nm": {"sparsity": None, "pattern": jp.masks.nm(2, 4, axis=0)},
        "block": {"sparsity": 0.5, "pattern": jp.masks.block(2, 2)},
    }[pattern]
    _, mask = lw.prune(model.apply, params, batches, method=lw.wanda(), **options)
    for path, m in jax.tree_util.tree_leaves_with_path(mask):
        layers = m.reshape(3, -1) if "layers" in str(path) else m.reshape(1, -1)
        share = 0.5 if options["sparsity"] is None else options["sparsity"]
        if pattern == "outputs":
            continue
        assert [int((~x).sum()) for x in layers] == [round(share * x.size) for x in layers], path
    if pattern == "nm":
        groups = np.asarray(mask["params"]["layers"]["up"]["kernel"]).reshape(3, 2, 4, 12)
        assert (groups.sum(2) == 2).all()
    if pattern == "outputs":
        down = np.asarray(mask["params"]["layers"]["down"]["kernel"])
        assert (down.sum(1) == 9).all()


def test_windows_by_name_see_inputs_from_before_all_of_it(scanned):
    model, params, batches = scanned
    records = []
    new, _ = lw.prune(
        model.apply,
        params,
        batches,
        0.5,
        method=lw.sparsegpt(),
        windows=[r"attention.*\[(\d)\]", r"(?:up|down).*\[(\d)\]"],
        on_window=records.append,
    )
    names = [sorted({name.split("/")[2] for name in record.errors}) for record in records]
    assert names == [["attention"], ["down", "up"]] * 3 + [["kernel"]]
    assert [record.number for record in records] == list(range(1, 8))
    assert all(0 < e < 1 for record in records for e in record.errors.values())
    # The first MLP by hand: both products see what enters behind the pruned attention.
    plain = networks.Unrolled()
    half = networks.unstacked(params)
    first = networks.unstacked(new)["params"]["layers_0"]
    half["params"]["layers_0"]["attention"] = first["attention"]
    grams = lw.statistics(plain.apply, half, batches)
    for name in ("up", "down"):
        kernel = half["params"]["layers_0"][name]["kernel"]
        gram = grams[f"params/layers_0/{name}/kernel"].gram
        expected, _ = lw.solve(lw.sparsegpt(), kernel, gram, 0.5)
        assert_same(first[name]["kernel"], expected, 1e-3)


def test_convolutions_of_groups():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3))(x))
            x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=4)(x))
            return nn.Dense(3)(x.mean((1, 2)))

    batches = networks.batches((4, 6, 6, 3))
    model = Net()
    params = model.init(jax.random.key(0), batches[0])
    new, mask = lw.prune(model.apply, params, batches, 0.5, method=lw.sparsegpt(), refit=True)
    grouped = np.asarray(mask["params"]["Conv_1"]["kernel"])  # [3, 3, 2, 8]: four groups of two
    assert [int((~grouped[..., k : k + 2]).sum()) for k in range(0, 8, 2)] == [18] * 4
    dense = [model.apply(params, x) for x in batches]

    def far(p):
        return sum(
            float(jnp.sum((model.apply(p, x) - y) ** 2))
            for x, y in zip(batches, dense, strict=True)
        )

    magnitude, _ = jp.prune(params, 0.5, allocation=jp.masks.uniform())
    assert far(new) < far(magnitude)


def test_stade_takes_variances_not_norms():
    params = {"w": jnp.array([[1.0], [1.0]])}
    batches = [jnp.array([[100.0, 1.0], [100.5, -1.0]])]  # a large mean, and a large variance

    def kept(method):
        _, mask = lw.prune(lambda p, x: x @ p["w"], params, batches, 0.5, method=method)
        return mask["w"][:, 0].tolist()

    assert kept(lw.wanda()) == [True, False]
    assert kept(lw.stade()) == [False, True]


@pytest.mark.parametrize("name", lw.METHODS)
def test_every_method_prunes_a_network(name):
    apply, params = networks.mlp()
    records = []
    new, mask = lw.prune(
        apply, params, networks.batches((30, 6)), 0.5, method=lw.METHODS[name](),
        allocation=jp.masks.per_output(axis=-1), refit=True, on_window=records.append,
    )  # fmt: skip
    assert jp.sparsity(mask) == 0.5
    assert all(0 < error < 1 for record in records for error in record.errors.values())
    for x, m in ((new["a"]["w"], mask["a"]["w"]), (new["b"]["w"], mask["b"]["w"])):
        assert not np.asarray(x)[~np.asarray(m)].any()


def test_sparsities_by_name(scanned):
    model, params, batches = scanned
    _, mask = lw.prune(
        model.apply, params, batches, {r"attention": 0.25, r"up.*\[1\]": 0.5}, method=lw.wanda()
    )
    up = np.asarray(mask["params"]["layers"]["up"]["kernel"])
    assert [1 - x.mean() for x in up] == [0, 0.5, 0]
    assert mask["params"]["head"]["kernel"].all()
    with pytest.raises(ValueError, match=r"\['nothing'\] name none of the products"):
        lw.prune(model.apply, params, batches, {"nothing": 0.5}, method=lw.wanda())


def test_parts_of_a_fused_kernel_are_layers_each():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "qkv": {"kernel": jax.random.normal(keys[0], (6, 3, 4))},
        "out": {"kernel": jax.random.normal(keys[1], (4, 6))},
    }

    def apply(params, x):
        q, k, v = (x @ params["qkv"]["kernel"][:, i] for i in range(3))
        return (jax.nn.softmax(q @ k.T) @ v) @ params["out"]["kernel"]

    _, mask = lw.prune(apply, params, networks.batches((5, 6)), 0.5, method=lw.wanda())
    fused = np.asarray(mask["qkv"]["kernel"])
    assert [int(fused[:, i].sum()) for i in range(3)] == [12] * 3


def test_the_same_on_one_and_on_eight_devices():
    apply, params = networks.mlp()
    batches = networks.batches((16, 6))
    mesh = Mesh(np.array(jax.devices()), ("x",))
    there = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("x"))) for x in batches]
    columns = {"a": {"w": ("x",), "b": ()}, "b": {"w": ()}}
    spread = jax.tree.map(
        lambda p, axes: jax.device_put(p, NamedSharding(mesh, PartitionSpec(*axes))),
        {**params, "a": {**params["a"], "w": jnp.pad(params["a"]["w"], ((0, 2), (0, 0)))}},
        columns,
        is_leaf=lambda x: isinstance(x, jax.Array),
    )
    batches = [jnp.pad(x, ((0, 0), (0, 2)), constant_values=0.5) for x in batches]
    there = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("x"))) for x in batches]
    plain = jax.device_get(spread)
    one, eight = (
        lw.prune(apply, *data, 0.5, method=lw.sparsegpt())
        for data in ((plain, batches), (spread, there))
    )
    assert_same(one[1], eight[1], 0)
    assert_same(one[0], eight[0])
    assert eight[0]["a"]["w"].sharding == spread["a"]["w"].sharding


def test_narrow_weights_stay_narrow():
    apply, params = networks.mlp()
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    batches = [x.astype(jnp.bfloat16) for x in networks.batches((20, 6))]
    new, mask = lw.prune(apply, narrow, batches, 0.5, method=lw.alps())
    assert new["a"]["w"].dtype == jnp.bfloat16
    assert not np.asarray(new["a"]["w"], np.float32)[~np.asarray(mask["a"]["w"])].any()


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    sparsity=st.floats(0.0, 0.9),
    method=st.sampled_from([lw.wanda(), lw.sparsegpt()]),
    refit=st.booleans(),
)
def test_any_sparsity_is_counted_exactly(sparsity, method, refit):
    apply, params = networks.mlp()
    _, mask = lw.prune(
        apply, params, networks.batches((8, 6)), sparsity, method=method, refit=refit,
        allocation=jp.masks.globally(),
    )  # fmt: skip
    for m in jax.tree.leaves(mask):
        assert int((~m).sum()) == round(sparsity * m.size)


def test_bad_input(scanned):
    apply, params = networks.mlp()
    batches = networks.batches((8, 6))
    with pytest.raises(TypeError, match=r"jp.layerwise.sparsegpt\(\) makes; got <function wanda"):
        lw.prune(apply, params, batches, 0.5, method=lw.wanda)
    with pytest.raises(ValueError, match=r"the window 'encoder' names none of .*'a/w', 'b/w'"):
        lw.prune(apply, params, batches, 0.5, method=lw.wanda(), windows=["encoder"])
    with pytest.raises(TypeError, match=r"list of regular expressions; got the string 'a'"):
        lw.prune(apply, params, batches, 0.5, method=lw.wanda(), windows="a")
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        lw.prune(apply, params, batches, 0.5, method=lw.wanda(), windows=["("])
    with pytest.raises(ValueError, match="'a/w'"):
        lw.prune(apply, params, batches, None, method=lw.wanda(), pattern=jp.masks.nm(2, 4, axis=0))
    with pytest.raises(ValueError, match="sparsity"):
        lw.prune(apply, params, batches, 1.0, method=lw.wanda())
    bad = jax.tree.map(lambda x: x, params)
    bad["a"]["b"] = jnp.full((1, 10), jnp.inf)
    with pytest.raises(ValueError, match="what enters 'b/w' is NaN or infinite in batch 0"):
        lw.prune(
            lambda p, x: jnp.exp(x @ p["a"]["w"] + p["a"]["b"]) @ p["b"]["w"],
            bad,
            batches,
            0.5,
            method=lw.wanda(),
        )


@pytest.mark.parametrize("kind", [jnp.array, np.array])
def test_nothing_of_the_callers_is_changed(kind):
    apply, params = networks.mlp()
    params = jax.tree.map(kind, params)
    before = jax.tree.map(lambda x: np.array(x, copy=True), params)
    lw.prune(apply, params, networks.batches((8, 6)), 0.5, method=lw.wanda())
    jax.tree.map(np.testing.assert_array_equal, before, params)
