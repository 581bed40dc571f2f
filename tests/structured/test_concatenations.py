"""Concatenated layers are counted one by one, in every rule of selection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.structured.checks import close, normal, quick

st = jp.structured
X = np.ones((2, 3), np.float32)
IMAGES = np.ones((1, 4, 4, 2), np.float32)


def _dense(params, x, *names):
    return jnp.concatenate([jnp.tanh(x @ params[name]) for name in names], axis=-1)


def _conv(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return jnp.tanh(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims))


def _cascade(params, x):
    return _dense(params, x, "a", "b", "c", "d") @ params["z"]


def _nested(params, x):
    inner = jnp.concatenate([jnp.tanh(x @ params["a"]), jnp.tanh(x @ params["b"])], axis=-1)
    return jnp.concatenate([inner, jnp.tanh(x @ params["c"]), x], axis=-1) @ params["z"]


def _added(params, x):
    """c makes all channels, a and b make half of them each."""
    return (_dense(params, x, "a", "b") + x @ params["c"]) @ params["z"]


def _twice(params, x):
    h = jnp.tanh(x @ params["a"])
    return jnp.concatenate([h, jnp.tanh(x @ params["b"]), h], axis=-1) @ params["z"]


def _padded(params, x):
    """A shortcut that pads: b makes four channels more."""
    h = jnp.tanh(x @ params["a"])
    return jnp.tanh(jnp.pad(h, ((0, 0), (0, 4))) + h @ params["b"]) @ params["z"]


def _wide_and_deep(params, x):
    deep = jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"])
    wide = x @ params["c"]
    return jnp.concatenate([wide, deep], axis=-1) @ params["z"]


def _densenet(params, x):
    x = _conv(x, params["a"])
    for name in ("b", "c"):
        x = jnp.concatenate([x, _conv(x, params[name])], axis=-1)
    return jnp.mean(_conv(x, params["d"]), axis=(1, 2)) @ params["z"]


def _inception(params, x):
    branches = [_conv(x, params["a"]), _conv(_conv(x, params["b"]), params["c"])]
    return jnp.mean(jnp.concatenate(branches, axis=-1), axis=(1, 2)) @ params["z"]


def _unet(params, x):
    skip = _conv(x, params["a"])
    down = _conv(skip[:, ::2, ::2], params["b"])
    up = jnp.repeat(jnp.repeat(down, 2, axis=1), 2, axis=2)
    return _conv(jnp.concatenate([up, skip], axis=-1), params["c"]) @ params["z"]


def _matrices(**shapes):
    return {
        name: normal(*shape, seed=i) / np.float32(4)
        for i, (name, shape) in enumerate(shapes.items())
    }


# Function, parameters, inputs.
NETWORKS = {
    "cascade": (_cascade, _matrices(a=(3, 10), b=(3, 20), c=(3, 30), d=(3, 60), z=(120, 2)), X),
    "nested": (_nested, _matrices(a=(3, 8), b=(3, 16), c=(3, 4), z=(31, 2)), X),
    "added": (_added, _matrices(a=(3, 8), b=(3, 16), c=(3, 24), z=(24, 2)), X),
    "twice": (_twice, _matrices(a=(3, 8), b=(3, 16), z=(32, 2)), X),
    "padded": (_padded, _matrices(a=(3, 8), b=(8, 12), z=(12, 2)), X),
    "wide and deep": (_wide_and_deep, _matrices(a=(3, 4), b=(4, 8), c=(3, 16), z=(24, 2)), X),
    "densenet": (_densenet, _matrices(
        a=(1, 1, 2, 4), b=(1, 1, 4, 8), c=(1, 1, 12, 8), d=(1, 1, 20, 8), z=(8, 2)), IMAGES),
    "inception": (_inception, _matrices(
        a=(1, 1, 2, 4), b=(1, 1, 2, 4), c=(3, 3, 4, 8), z=(12, 2)), IMAGES),
    "unet": (_unet, _matrices(
        a=(1, 1, 2, 4), b=(1, 1, 4, 8), c=(1, 1, 12, 4), z=(4, 2)), IMAGES),
}  # fmt: skip


@pytest.fixture(scope="module")
def net():
    """Groups and scores by the name of a network, found once."""
    known = {}

    def get(name):
        if name not in known:
            apply, params, x = NETWORKS[name]
            groups = st.channel_groups(apply, params, x)
            known[name] = (
                groups,
                tuple(np.random.default_rng(7).normal(size=group.size) for group in groups),
            )
        return known[name]

    return get


def _left(net, name, *args, **options):
    """How many channels of each kernel stay, read off the masks."""
    groups, scores = net(name)
    masks = st.masks(groups, st.select(groups, scores, *args, **options))
    return {
        path: int(np.asarray(masks[path]).any(axis=tuple(range(masks[path].ndim - 1))).sum())
        for path in masks
        if path != "z"
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_loses_its_own_half(net, name):
    params = NETWORKS[name][1]
    full = {path: w.shape[-1] for path, w in params.items() if path != "z"}
    half = {path: n // 2 for path, n in full.items()}
    assert _left(net, name, 0.5) == half
    ratios = dict.fromkeys(full, 0.5)
    assert _left(net, name, allocation=st.ratios(ratios)) == half
    assert _left(net, name, allocation=st.ratios({".": 0.5, "a": 0.25})) == half
    assert _left(net, name, allocation=st.to_widths(half)) == half


@pytest.mark.parametrize("name", NETWORKS)
def test_skipped_layers_keep_all_and_others_do_not(net, name):
    params = NETWORKS[name][1]
    full = {path: w.shape[-1] for path, w in params.items() if path != "z"}
    left = _left(net, name, 0.5, skip=["b"])
    assert left["b"] == full["b"]
    # In "padded" b makes all that a makes, and in "added" c all that b makes.
    assert (left["a"] == full["a"] // 2) == (name != "padded")
    left = _left(net, name, 0.5, skip=["a"])
    assert left["a"] == full["a"]
    assert left["b"] == (10 if name == "padded" else full["b"] // 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_limits_and_multiples_are_of_layers(net, name):
    params = NETWORKS[name][1]
    full = {path: w.shape[-1] for path, w in params.items() if path != "z"}
    left = _left(net, name, 0.75, allocation=st.globally(), max_sparsity={"a": 0.25})
    assert left["a"] >= 0.75 * full["a"]
    # The others made up for it.
    groups, scores = net(name)
    kept = st.select(groups, scores, 0.75, allocation=st.globally(), max_sparsity={"a": 0.25})
    if not kept.notes:
        assert sum(k.sum() for k in kept) == sum(g.size for g in groups) - round(
            0.75 * sum(g.size for g in groups)
        )
    left = _left(net, name, 0.75, max_sparsity=0.5)
    assert all(left[path] >= full[path] / 2 for path in full)
    left = _left(net, name, 0.7, round_to=4)
    assert all(left[path] % 4 == 0 or left[path] == full[path] for path in full)
    assert any(left[path] < full[path] for path in full)


def test_cascade_as_in_torch_pruning(net):
    assert _left(net, "cascade", 0.5) == {"a": 5, "b": 10, "c": 15, "d": 30}
    left = _left(net, "cascade", allocation=st.ratios({"a": 0.5, "b": 0.25}))
    assert left == {"a": 5, "b": 15, "c": 30, "d": 60}
    left = _left(net, "cascade", allocation=st.ratios({r"a|b": 0.5, "d": 0.9}))
    assert left == {"a": 5, "b": 10, "c": 30, "d": 6}
    left = _left(net, "cascade", allocation=st.to_widths({"b": 7, "d": 1}))
    assert left == {"a": 10, "b": 7, "c": 30, "d": 1}


def test_the_lowest_of_each_layer_go():
    apply, params, x = NETWORKS["cascade"]
    groups = st.channel_groups(apply, params, x)
    kept = st.select(groups, st.magnitude(groups, params), 0.5)
    masks = st.masks(groups, kept)
    for path in "abcd":
        norms = np.abs(np.asarray(params[path])).sum(0)
        want = norms > np.median(norms)
        np.testing.assert_array_equal(np.asarray(masks[path]).all(0), want)


def test_isomorphic_knows_the_layers(net):
    groups, scores = net("cascade")
    kept = st.select(groups, scores, 0.5, allocation=st.isomorphic())
    assert kept[0].sum() == 60  # dense layers called by different names: each of its own kind
    assert _left(net, "cascade", 0.5, allocation=st.isomorphic()) == {
        "a": 5, "b": 10, "c": 15, "d": 30
    }  # fmt: skip


def test_one_budget_for_several_layers(net):
    groups, scores = net("cascade")
    for fraction, gone in [(0.5, 15), (0.9, 27)]:
        allocation = st.ratios({("a", "b"): fraction, "d": 0.5})
        kept = st.select(groups, scores, allocation=allocation)
        assert [(~kept[0])[s].sum() for s in (slice(30), slice(30, 60), slice(60, 120))] == [
            gone, 0, 30
        ]  # fmt: skip
        if fraction == 0.5:
            both = scores[0][:30]
            np.testing.assert_array_equal(kept[0][:30], both > np.sort(both)[14])
    # Beside a layer of its own: together 15 of 30, of a 2.
    left = _left(net, "cascade", allocation=st.ratios({("a", "b"): 0.5, "a": 0.2}))
    assert (left["a"], left["b"]) == (8, 7)
    with pytest.raises(ValueError, match=r"'a'.*make some of the same channels. Name one"):
        st.select(groups, scores, allocation=st.ratios({("a", "b"): 0.5, ("b", "c"): 0.5}))


def test_counts_of_layers_that_make_channels_of_another(net):
    # c makes what a and b make.
    left = _left(net, "added", allocation=st.ratios({"c": 0.5}))
    assert left["c"] == 12
    assert left["a"] + left["b"] == 12
    left = _left(net, "added", allocation=st.ratios({"c": 0.5, "a": 0.25}))
    assert left == {"a": 6, "b": 6, "c": 12}
    left = _left(net, "added", allocation=st.to_widths({"c": 9, "a": 2}))
    assert left == {"a": 2, "b": 7, "c": 9}
    groups, scores = net("added")
    with pytest.raises(ValueError, match=r"takes 20 of 24 channels of 'c', but 'a', 'b' make some"):
        st.select(groups, scores, allocation=st.to_widths({"c": 4, "a": 4, "b": 4}))
    with pytest.raises(ValueError, match=r"takes 2 of 24 channels of 'c', but 'a' make some"):
        st.select(groups, scores, allocation=st.to_widths({"c": 22, "a": 4}))
    left = _left(net, "padded", allocation=st.to_widths({"b": 5, "a": 2}))
    assert left == {"a": 2, "b": 5 - 0}


def test_expressions_mean_what_no_earlier_rule_has_named(net):
    groups, scores = net("added")
    left = _left(net, "added", allocation=st.ratios({"a": 0.25, ".": 0.5}))
    assert left == {"a": 6, "b": 8, "c": 14}
    left = _left(net, "added", allocation=st.ratios({"c": 0.25, ".": 0.5}))
    assert left["c"] == 18
    with pytest.raises(ValueError, match=r"takes 6 of 24 channels of 'c', but 'a', 'b' make some"):
        st.select(groups, scores, allocation=st.ratios({"a|b": 0.5, "c": 0.25}))


def _crossing(params, x):
    """Of twelve channels a makes the first eight, and b the last eight."""
    left = jnp.pad(jnp.tanh(x @ params["a"]), ((0, 0), (0, 4)))
    return jnp.tanh(left + jnp.pad(jnp.tanh(x @ params["b"]), ((0, 0), (4, 0)))) @ params["z"]


def test_layers_that_share_some_channels():
    params = _matrices(a=(3, 8), b=(3, 8), z=(12, 2))
    groups = st.channel_groups(_crossing, params, X)
    assert [(part.name, part.units.tolist()) for part in groups.parts] == [
        ("a", [0, 1, 2, 3]), ("a", [4, 5, 6, 7]), ("b", [8, 9, 10, 11])
    ]  # fmt: skip
    scores = [np.arange(12.0)]
    half = [False, False, True, True] * 3
    for rules in ({".": 0.5}, {"a": 0.5, "b": 0.5}):
        kept = st.select(groups, scores, allocation=st.ratios(rules))
        assert kept[0].tolist() == half
    assert st.select(groups, scores, 0.5)[0].tolist() == half
    kept = st.select(groups, scores, allocation=st.ratios({"a": 0.5, ".": 0.25}))
    assert kept[0].tolist() == [False] * 4 + [True] * 4 + [False] + [True] * 3
    kept = st.select(groups, scores, 0.9, allocation=st.globally(), max_sparsity={"b": 0.25})
    assert kept[0].tolist() == [False] * 6 + [True] * 6
    with pytest.raises(
        ValueError, match=r"gives 0.5 for 'a' and 0.25 for 'b', but these make some"
    ):
        st.select(groups, scores, allocation=st.ratios({"a": 0.5, "b": 0.25}))


def test_reports_name_what_shares_a_count(net):
    report = net("added")[0].report()
    assert "  layer a: 8 channels" in report
    assert "  layer c: 24 channels" in report

    def apply(params, x):
        return (x @ params["a"] + x @ params["b"]) @ params["z"]

    shared = st.channel_groups(apply, _matrices(a=(3, 4), b=(3, 4), z=(4, 2)), X)
    assert "  one count: a, b make the same channels" in shared.report()
    assert "layer" not in shared.report()


def test_scores_leave_out_layers(net):
    apply, params, x = NETWORKS["inception"]
    groups = st.channel_groups(apply, params, x)
    assert [g.size for g in groups] == [12, 4]
    plain, part = (st.magnitude(groups, params, skip=s) for s in ([], ["c"]))
    np.testing.assert_array_equal(part[0][:4], plain[0][:4])
    assert np.isinf(part[0][4:]).all()
    kept = st.select(groups, part, 0.5)
    assert [kept[0][:4].sum(), kept[0][4:].sum(), kept[1].sum()] == [2, 8, 2]
    kept = st.select(groups, part, 0.5, allocation=st.globally())
    assert kept[0][:4].sum() + kept[1].sum() == 4
    assert kept[0][4:].all()
    both = st.magnitude(groups, params, skip=["a", "c"])
    assert both[0] is None
    mean = st.magnitude(groups, params, skip=["c"], normalize="mean")
    np.testing.assert_allclose(mean[0][:4], plain[0][:4] / plain[0][:4].mean(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"channel 4 of 'a'; .*skip=\['c'\]"):
        st.magnitude(groups, params, members=lambda m: m.path in ("a", "b"))


@pytest.mark.parametrize("name", NETWORKS)
def test_shrunk_is_masked(net, name):
    apply, params, x = NETWORKS[name]
    groups, scores = net(name)
    masks = st.masks(groups, st.select(groups, scores, 0.5, max_sparsity={"a": 0.25}))
    small_apply, small = st.shrink(apply, params, masks, x)
    masked, got = quick(lambda p, q: (apply(p, x), small_apply(q, x)))(
        jp.apply_mask(params, masks), small
    )
    close(masked, got)
