"""Mean ranks of feature maps against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

st = jp.structured
DIMS = ("NHWC", "HWIO", "NHWC")


def _conv(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=DIMS)


def _maps(params, x):
    """What is read: the stem's channels by two, the block's by one, the last by the mean."""
    stem = jax.nn.relu(_conv(x, params["stem"]))
    inner = jax.nn.relu(_conv(stem, params["inner"]))
    stem2 = stem + _conv(inner, params["outer"])
    last = jax.nn.relu(_conv(stem2, params["last"], 2))
    return {"stem": [stem, stem2], "inner": [inner], "last": [last]}, last


def _apply(params, x):
    _, last = _maps(params, x)
    return jnp.mean(last, axis=(1, 2)) @ params["head"]


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (3, 3, 1, 4),
        "inner": (3, 3, 4, 5),
        "outer": (1, 1, 5, 4),
        "last": (3, 3, 4, 3),
        "head": (3, 2),
    }
    params = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    params["stem"] = params["stem"].at[..., 2].set(0.0)
    batches = [
        jnp.asarray(rng.normal(size=(n, 8, 6, 1)) * (rng.random((n, 8, 6, 1)) < 0.2), jnp.float32)
        for n in (5, 5, 2)
    ]
    groups = st.channel_groups(_apply, params, batches[0])
    return groups, params, batches


def _want(params, batches):
    maps = [jax.jit(_maps)(params, x)[0] for x in batches]
    want = {}
    for name in ("inner", "last", "stem"):
        found = [
            np.linalg.matrix_rank(np.moveaxis(np.asarray(read), -1, 1))
            for one in maps
            for read in one[name]
        ]
        want[name] = np.concatenate(found).mean(0)
    return want


def _as_dict(groups, scores):
    paths = {"inner": "inner", "last": "last", "stem": "stem"}
    return {name: np.asarray(scores[groups.index(path)]) for name, path in paths.items()}


def test_mean_rank_over_images_and_readers(net):
    groups, params, batches = net
    got = _as_dict(groups, st.hrank(groups, _apply, params, batches))
    want = _want(params, batches)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)
    assert len(np.unique(want["inner"])) > 1


def test_calls_and_custom_rules_are_looked_into(net):
    _, params, batches = net

    @jax.custom_vjp
    def act(x):
        return jax.nn.relu(x)

    act.defvjp(lambda x: (act(x), x), lambda x, g: (jnp.where(x > 0, g, 0),))

    def apply(params, x):
        @jax.checkpoint
        @jax.jit
        def block(params, x):
            return x + _conv(act(_conv(x, params["inner"])), params["outer"])

        x = block(params, jax.nn.relu(_conv(x, params["stem"])))
        x = act(_conv(x, params["last"], 2))
        return jnp.mean(x, axis=(1, 2)) @ params["head"]

    again = st.channel_groups(apply, params, batches[0])
    got = _as_dict(again, st.hrank(again, apply, params, ((x,) for x in batches)))
    for name, want in _want(params, batches).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-6)


def test_zero_maps_go_first(net):
    groups, params, batches = net
    # The block adds something to channel 2 of the stream, so look at the inner channels.
    params = {**params, "inner": params["inner"].at[..., 1].set(0.0)}
    scores = st.hrank(groups, _apply, params, batches[:1])
    kept = st.select(groups, scores, 0.2)
    assert np.flatnonzero(~kept[groups.index("inner")]).tolist() == [1]


def test_channels_without_maps(net):
    _, params, batches = net

    def apply(params, x):
        x = jnp.mean(jax.nn.relu(_conv(x, params["stem"])), axis=(1, 2))
        return jnp.tanh(x @ params["inner"][0, 0]) @ params["outer"][0, 0]

    groups = st.channel_groups(apply, params, batches[0])
    (hidden,) = [g.name for g in groups if "stem" not in g.name]
    with pytest.raises(ValueError, match=rf"of '{hidden}' has no feature map: .*skip=\['{hidden}"):
        st.hrank(groups, apply, params, batches)
    scores = st.hrank(groups, apply, params, batches, skip=[hidden])
    assert scores[groups.index(hidden)] is None
    kept = st.select(groups, scores, 0.5)
    assert kept[groups.index(hidden)].all()
    assert kept[groups.index("stem")].sum() == 2


def test_errors(net):
    groups, params, batches = net
    with pytest.raises(ValueError, match="`batches` is empty"):
        st.hrank(groups, _apply, params, [])
    with pytest.raises(ValueError, match="other channels hang together than in `groups`"):
        st.hrank(groups, lambda p, x: _maps(p, x)[1], params, batches)
    with pytest.raises(ValueError, match="the parameters changed"):
        st.hrank(groups, _apply, {**params, "head": jnp.ones(3)}, batches)
