"""Scores of channels against slow definitions, hand-computed cases and explicit gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.structured.checks import close, normal, quick

st = jp.structured
DIMS = ("NHWC", "HWIO", "NHWC")


def _conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMS)


def _norm(x, p):
    shape = (1,) * (x.ndim - 1) + (-1,)
    return x * p["scale"].reshape(shape) + p["bias"].reshape(shape)


def _apply(params, x, gates=None):
    """A residual stream of 3 channels, a block of 5 inside, flattened, 4 hidden units."""
    gates = gates or {"stream": jnp.ones(3), "inner": jnp.ones(5), "hidden": jnp.ones(4)}
    wide = lambda name, *ones: gates[name].reshape((*ones, -1))  # noqa: E731
    x = jax.nn.relu(_norm(_conv(x, params["stem"]["kernel"]), params["stem"]))
    y = _conv(x * wide("stream", 1, 1, 1), params["conv0"]["kernel"])
    y = jax.nn.relu(_norm(y, params["conv0"]))
    y = _conv(y * wide("inner", 1, 1, 1), params["conv1"]["kernel"])
    x = (x + _norm(y, params["conv1"])) * wide("stream", 1, 1, 1)
    x = x.reshape(x.shape[0], -1)
    x = jnp.tanh(x @ params["dense0"]["kernel"] + params["dense0"]["bias"].reshape(1, -1))
    return (x * wide("hidden", 1)) @ params["dense1"]["kernel"]


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def layer(*shape, norm=True):
        # Small, so that no tanh is flat.
        new = {"kernel": normal(*shape) / np.float32(np.prod(shape[:-1]))}
        if norm:
            new["scale"] = normal(shape[-1])
        new["bias"] = normal(shape[-1])
        return new

    params = {
        "stem": layer(3, 3, 2, 3),
        "conv0": layer(3, 3, 3, 5),
        "conv1": layer(3, 3, 5, 3),
        "dense0": layer(4 * 4 * 3, 4, norm=False),
        "dense1": {"kernel": normal(4, 2)},
    }
    params, x = jax.device_put(params), normal(6, 4, 4, 2)
    groups = st.channel_groups(_apply, params, x)
    assert sorted((g.name, g.size) for g in groups) == [
        ("conv0/kernel", 5),
        ("conv1/kernel", 3),
        ("dense0/kernel", 4),
    ]
    return groups, params, x


def _by_name(groups, scores):
    return {group.name: np.asarray(s) for group, s in zip(groups, scores, strict=True)}


def _slices(member, params):
    """The entries of a member unit by unit, in NumPy."""
    layer, leaf = member.path.split("/")
    w = np.moveaxis(np.asarray(params[layer][leaf], np.float64), member.axis, 0)
    return [w[member.owners == unit].ravel() for unit in range(member.owners.max() + 1)]


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("members", ["first", "out", "kernels", lambda m: m.role == "along"])
def test_magnitude_against_loops(net, norm, members):
    groups, params, _ = net
    order = {"l1": 1, "l2": 2}[norm]
    for over in ("sum", "mean", "max"):
        options = {"norm": norm, "members": members, "over_members": over}
        for group, got in zip(groups, st.magnitude(groups, params, **options), strict=True):
            if callable(members):
                chosen = [m for m in group.members if members(m)]
            else:
                roles = ("out", "in") if members == "kernels" else ("out",)
                chosen = [m for m in group.members if m.role in roles]
                chosen = chosen[:1] if members == "first" else chosen
            table = [[np.linalg.norm(s, order) for s in _slices(m, params)] for m in chosen]
            want = {"sum": np.sum, "mean": np.mean, "max": np.max}[over](table, axis=0)
            assert got.shape == (group.size,)
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(got, want, rtol=1e-5)


def test_magnitude_compiles(net):
    groups, params, _ = net
    options = {"members": "kernels", "over_members": "sum"}
    compiled = jax.jit(lambda p: st.magnitude(groups, p, **options))(params)
    for a, b in zip(compiled, st.magnitude(groups, params, **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_channels_that_no_kernel_makes_have_the_score_of_what_holds_them():
    """Learned tokens beside those of the input: along them nothing is a product's output."""

    def apply(params, x):
        keys = jnp.concatenate([params["tokens"], params["others"]], 0)
        return jax.nn.softmax(x @ keys.T) @ keys

    params = {"tokens": normal(5, 3), "others": normal(4, 3, seed=2)}
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    assert sum(group.size for group in groups) == 9
    for options in ({}, {"members": "first"}, {"members": "kernels"}):
        found = np.concatenate(jp.structured.magnitude(groups, params, **options))
        rows = np.concatenate([np.abs(params[k]).sum(1) for k in ("tokens", "others")])
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.sort(found), np.sort(rows), rtol=1e-5)
    kept = jp.structured.select(groups, jp.structured.magnitude(groups, params), 0.5)
    masks = jp.structured.masks(groups, kept)
    small, weights = jp.structured.shrink(apply, params, masks, normal(2, 3))
    full = apply(jp.apply_mask(params, masks), normal(2, 3))
    np.testing.assert_allclose(small(weights, normal(2, 3)), full, atol=1e-6)


def test_normalized_groups_compare(net):
    groups, params, _ = net
    plain = st.magnitude(groups, params)
    for scores, how in [(st.magnitude(groups, params, normalize=n), n) for n in ("mean", "max")]:
        for a, b in zip(scores, plain, strict=True):
            np.testing.assert_allclose(a, b / getattr(np, how)(b), rtol=1e-6)
    zero = jax.tree.map(jnp.zeros_like, params)
    assert all((s == 0).all() for s in st.magnitude(groups, zero, normalize="max"))


def test_sixteen_bits_are_summed_in_thirty_two(net):
    groups, params, _ = net
    half = jax.tree.map(lambda x: np.asarray(x).astype(jnp.bfloat16), params)
    half, back = jax.device_put((half, jax.tree.map(lambda x: x.astype(np.float32), half)))
    for score in (st.magnitude, st.geometric_median):
        for a, b in zip(score(groups, half), score(groups, back), strict=True):
            assert a.dtype == jnp.float32
            np.testing.assert_array_equal(a, b)


def _concatenated():
    """Two layers that make a part of the channels each."""

    def apply(params, x):
        parts = [jnp.tanh(x @ params["a"]), jnp.tanh(x @ params["b"])]
        return jnp.concatenate(parts, axis=1) @ params["c"]

    params = {
        "a": jnp.array([[1.0, -2.0]]),
        "b": jnp.array([[3.0, -4.0, 6.0]]),
        "c": jnp.array([[1.0], [2.0], [3.0], [4.0], [5.0]]),
    }
    return st.channel_groups(apply, params, jnp.ones((1, 1))), params


def test_each_channel_counts_the_members_that_hold_it():
    groups, params = _concatenated()
    assert [g.size for g in groups] == [5]
    for members in ("first", "out"):
        for over in ("sum", "mean", "max"):
            (scores,) = st.magnitude(groups, params, members=members, over_members=over)
            assert scores.tolist() == [1, 2, 3, 4, 6]
    (scores,) = st.magnitude(groups, params, members="kernels")
    assert scores.tolist() == [1, 2, 3, 4, 5.5]
    # Distances within each layer.
    (scores,) = st.geometric_median(groups, params)
    assert scores.tolist() == [3, 3, 10, 17, 13]
    with pytest.raises(ValueError, match=r"no member that counts holds channel 2 of 'a'; .*'b'"):
        st.magnitude(groups, params, members=lambda m: m.path == "a")


def test_geometric_median_of_one_kernel_is_that_of_weights(net):
    groups, params, _ = net
    scores = _by_name(groups, st.geometric_median(groups, params))
    whole = jp.scores.geometric_median(params)
    for name in ("conv0", "dense0"):
        want = np.asarray(whole[name]["kernel"]).reshape(-1, groups[f"{name}/kernel"].size)[0]
        np.testing.assert_array_equal(scores[f"{name}/kernel"], want)
    both = whole["stem"]["kernel"][0, 0, 0] + whole["conv1"]["kernel"][0, 0, 0]
    np.testing.assert_allclose(scores["conv1/kernel"], both, rtol=1e-6)


def test_norm_scale(net):
    groups, params, _ = net
    with pytest.raises(ValueError, match="no member that counts holds channel 0 of 'dense0/kern"):
        st.norm_scale(groups, params)
    convs = st.ChannelGroups(
        tuple(g for g in groups if "conv" in g.name), (), (), groups.shapes, groups.treedef
    )
    a, b = (np.abs(params[layer]["scale"]) for layer in ("stem", "conv1"))
    for over, want in [("mean", (a + b) / 2), ("max", np.maximum(a, b)), ("sum", a + b)]:
        scores = _by_name(convs, st.norm_scale(convs, params, over_members=over))
        np.testing.assert_allclose(scores["conv1/kernel"], want, rtol=1e-6)
        np.testing.assert_array_equal(scores["conv0/kernel"], np.abs(params["conv0"]["scale"]))
    names = _by_name(convs, st.norm_scale(convs, params, name="bias"))
    np.testing.assert_array_equal(names["conv0/kernel"], np.abs(params["conv0"]["bias"]))


def test_taylor_is_the_squared_gradient_of_gates(net):
    groups, params, x = net
    gates = {"stream": jnp.ones(3), "inner": jnp.ones(5), "hidden": jnp.ones(4)}

    def loss(params, gates):
        return jnp.mean(jnp.sin(_apply(params, x, gates)))

    grads, slopes = quick(jax.grad(loss, argnums=(0, 1)))(params, gates)
    scores = _by_name(groups, st.taylor(groups, params, grads))
    close(scores["conv1/kernel"], slopes["stream"] ** 2)  # conv0 and dense0 read it, 16 pixels each
    close(scores["conv0/kernel"], slopes["inner"] ** 2)
    close(scores["dense0/kernel"], slopes["hidden"] ** 2)
    compiled = jax.jit(lambda p, g: st.taylor(groups, p, g))(params, grads)
    close(tuple(scores.values()), compiled)
    only = jax.tree_util.tree_map_with_path(
        lambda path, g: g if path[-1].key == "kernel" else None, grads
    )
    close(st.taylor(groups, params, only), tuple(scores.values()))


def test_taylor_of_channels_that_no_kernel_reads():
    # Features of queries and keys meet each other: gates are behind the kernels that make them.
    def apply(params, x, gate=None):
        gate = jnp.ones((1, 3)) if gate is None else gate
        return ((x @ params["q"]) * gate) @ ((x @ params["k"]) * gate).T

    rng = np.random.default_rng(1)
    params = {n: rng.normal(size=(4, 3)).astype(np.float32) for n in "qk"}
    x = rng.normal(size=(5, 4)).astype(np.float32)
    groups = st.channel_groups(apply, params, x)

    def loss(params, gate):
        return jnp.mean(jnp.sin(apply(params, x, gate)))

    grads, slope = quick(jax.grad(loss, argnums=(0, 1)))(params, jnp.ones((1, 3)))
    (score,) = st.taylor(groups, params, grads)
    close(score, slope[0] ** 2)


def test_running_average():
    scores = None
    for value in (1.0, 0.0, 2.0):
        scores = st.average(scores, (jnp.full(2, value), None))
    np.testing.assert_allclose(scores[0], 0.9 * 0.9 + 0.1 * 2.0, rtol=1e-6)
    assert scores[1] is None
    with pytest.raises(ValueError, match="momentum is 2"):
        st.average(None, scores, momentum=2)


def test_random(net):
    groups, _, _ = net
    scores = st.random(jax.random.key(0), groups)
    assert [s.shape for s in scores] == [(g.size,) for g in groups]
    for a, b in zip(scores, st.random(jax.random.key(0), groups), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(((s >= 0) & (s < 1)).all() for s in scores)


def test_errors(net):
    groups, params, _ = net
    with pytest.raises(ValueError, match="norm is one of 'l1', 'l2'; got 'l3'"):
        st.magnitude(groups, params, norm="l3")
    with pytest.raises(ValueError, match="'kernels', or pass a function; got 'all'"):
        st.magnitude(groups, params, members="all")
    with pytest.raises(ValueError, match="the parameters changed"):
        st.magnitude(groups, {**params, "stem": {"kernel": jnp.ones(3)}})
    structs = jax.eval_shape(lambda p: p, params)
    with pytest.raises(TypeError, match="'conv0/kernel' is abstract"):
        st.magnitude(groups, structs)
    bad = jax.tree.map(lambda x: x, params)
    bad["conv0"]["kernel"] = bad["conv0"]["kernel"].at[0, 0, 0, 2].set(jnp.nan)
    for score in (st.magnitude, st.geometric_median):
        with pytest.raises(ValueError, match="weights at 'conv0/kernel' hold NaN"):
            score(groups, bad)
    with pytest.raises(ValueError, match="gradients at 'conv0/kernel' hold NaN"):
        st.taylor(groups, params, bad)
    with pytest.raises(ValueError, match="gradients have nothing for 'conv1/kernel' of shape"):
        st.taylor(groups, params, {**params, "conv1": None})
    whole = jax.tree.map(lambda x: x.astype(jnp.int32), params)
    with pytest.raises(TypeError, match="'conv0/kernel' is not floating"):
        st.magnitude(groups, whole)
