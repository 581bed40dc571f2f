"""What kernels read, against NumPy; the mean output that FLAP's bias keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.structured.checks import normal, random_params
from tests.structured.test_transformers import GROUP, HEAD, KV, X, layer, of_equinox, of_linen

st = jp.structured
PARAMS = {"a": normal(3, 4), "b": normal(4, 2, seed=2), "c": normal(2, 3, seed=4)}
BATCHES = [normal(5, 6, 3, seed=5), normal(2, 6, 3, seed=6)]


def apply(params, x):
    return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]


GROUPS = st.channel_groups(apply, PARAMS, BATCHES[0])
READ = st.reads(GROUPS, apply, PARAMS, BATCHES)
HIDDEN = [np.tanh(np.asarray(x, np.float64) @ np.asarray(PARAMS["a"])) for x in BATCHES]


def test_statistics_by_numpy():
    rows = np.concatenate([h.reshape(-1, 4) for h in HIDDEN])
    read = READ["b", 0]
    np.testing.assert_allclose(read.mean, rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(read.variance, rows.var(0), rtol=1e-4)
    means = np.concatenate([np.abs(h).mean(1) for h in HIDDEN])
    np.testing.assert_allclose(read.activation, np.sqrt((means**2).sum(0)), rtol=1e-5)


def test_scores_by_numpy():
    scores = st.activation(GROUPS, READ)
    np.testing.assert_allclose(scores[GROUPS.index("a")], READ["b", 0].activation, rtol=1e-6)
    rows = np.concatenate([h.reshape(-1, 4) for h in HIDDEN])
    raw = rows.var(0) * (np.asarray(PARAMS["b"], np.float64) ** 2).sum(1)
    found = st.fluctuation(GROUPS, PARAMS, READ, standardise=False)[GROUPS.index("a")]
    np.testing.assert_allclose(found, raw, rtol=1e-4)
    even = st.fluctuation(GROUPS, PARAMS, READ)[GROUPS.index("a")]
    np.testing.assert_allclose(even, (raw - raw.mean()) / raw.std(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("framework", [of_linen, of_equinox])
def test_heads_of_a_transformer(framework):
    function, params = framework()
    params = random_params(params)
    groups = st.channel_groups(function, params, X)
    read = st.reads(groups, function, params, [X])
    skip = [g.name for g in groups if layer(g.name) == "k#2"]
    scores = st.activation(groups, read, skip=skip)
    named = {layer(g.name): s for g, s in zip(groups, scores, strict=True)}
    assert named["k#2"] is None
    (into,) = (r for (path, _), r in read.items() if layer(path) == "o")
    squares = (into.activation**2).reshape(KV, GROUP, HEAD)
    np.testing.assert_allclose(named["k"], np.sqrt(squares.sum((1, 2))), rtol=1e-5)
    np.testing.assert_allclose(named["q"], np.sqrt(squares.sum((0, 2))), rtol=1e-5)


def test_the_bias_keeps_the_mean_of_the_outputs():
    kept = [np.ones(group.size, bool) for group in GROUPS]
    kept[GROUPS.index("a")][[0, 2]] = False
    masks = st.masks(GROUPS, kept)
    lost = st.lost_output(GROUPS, PARAMS, masks, READ)
    assert list(lost) == ["b"]
    small = jp.apply_mask(PARAMS, masks)
    before = np.concatenate([(h @ np.asarray(PARAMS["b"])).reshape(-1, 2) for h in HIDDEN])
    after = np.concatenate([(h @ np.asarray(small["b"])).reshape(-1, 2) for h in HIDDEN])
    np.testing.assert_allclose(after.mean(0) + lost["b"], before.mean(0), rtol=1e-4, atol=1e-6)
    assert np.abs(after.mean(0) - before.mean(0)).max() > 1e-3


def test_errors():
    with pytest.raises(ValueError, match="`batches` is empty"):
        st.reads(GROUPS, apply, PARAMS, [])
    with pytest.raises(ValueError, match="no product with a kernel reads channel 0 of 'a'"):
        st.activation(GROUPS, {})
