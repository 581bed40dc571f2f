"""LAMP, Hessians, quantised and complex weights, reductions and normalisers, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.structured.checks import normal, quick

st = jp.structured


def _two(params, x):
    """Two layers that make the same channels, and one of its own."""
    h = jnp.tanh(x @ params["a"] + x @ params["b"])
    return jnp.tanh(h @ params["c"]) @ params["z"]


PARAMS = {"a": normal(3, 5), "b": normal(3, 5, seed=2), "c": normal(5, 4, seed=3)}
PARAMS["z"] = normal(4, 2, seed=4)
X = normal(6, 3, seed=5)


@pytest.fixture(scope="module")
def groups():
    found = st.channel_groups(_two, PARAMS, X)
    assert [(g.name, g.size) for g in found] == [("a", 5), ("c", 4)]
    return found


def _numpy(path):
    return np.asarray(PARAMS[path], np.float64)


@pytest.mark.parametrize("how", ["sum", "mean", "max", "product", "l2"])
def test_reductions(groups, how):
    scores = st.magnitude(groups, PARAMS, over_members=how)
    table = np.array([np.abs(_numpy(path)).sum(0) for path in "ab"])
    want = {
        "sum": table.sum(0), "mean": table.mean(0), "max": table.max(0),
        "product": table.prod(0), "l2": np.linalg.norm(table, axis=0),
    }[how]  # fmt: skip
    np.testing.assert_allclose(scores[0], want, rtol=1e-5)
    np.testing.assert_allclose(scores[1], np.abs(_numpy("c")).sum(0), rtol=1e-5)


@pytest.mark.parametrize("how", ["sum", "mean", "max", "standardised"])
def test_normalisers(groups, how):
    scores = st.magnitude(groups, PARAMS, normalize=how)
    for got, plain in zip(scores, st.magnitude(groups, PARAMS), strict=True):
        x = np.asarray(plain, np.float64)
        want = (x - x.mean()) / x.std() if how == "standardised" else x / getattr(np, how)(x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    same = jax.tree.map(jnp.zeros_like, PARAMS)
    assert all((s == 0).all() for s in st.magnitude(groups, same, normalize=how))


@pytest.mark.parametrize("how", ["sum", "mean", "max", "standardised"])
def test_layers_that_are_put_side_by_side_are_normalised_alone(how):
    def apply(params, x):
        first, last = jnp.tanh(x @ params["a"]), jnp.tanh(x @ params["b"])
        return jnp.concatenate([first[:, :2], last, first[:, 2:]], -1) @ params["z"]

    params = {"a": 100 * PARAMS["a"], "b": PARAMS["b"], "z": normal(10, 2)}
    groups = st.channel_groups(apply, params, X)
    (scores,) = st.magnitude(groups, params, normalize=how)
    for part in groups.parts:
        x = np.abs(np.asarray(params[part.name], np.float64)).sum(0)
        want = (x - x.mean()) / x.std() if how == "standardised" else x / getattr(np, how)(x)
        np.testing.assert_allclose(np.asarray(scores)[part.units], want, rtol=1e-4, atol=1e-5)


def test_unknown_names(groups):
    with pytest.raises(ValueError, match=r"over_members is one of 'sum', .*; got 'median'"):
        st.magnitude(groups, PARAMS, over_members="median")
    with pytest.raises(ValueError, match=r"normalize is one of None, 'sum', .*; got 'lamp'"):
        st.hessian(groups, PARAMS, PARAMS, normalize="lamp")


def _slow_lamp(norms):
    """Equal ones: the lower index goes first."""
    order = sorted(range(len(norms)), key=lambda u: (norms[u], u))
    return [norms[u] / sum(norms[v] for v in order[order.index(u) :]) for u in range(len(norms))]


def test_lamp(groups):
    scores = st.lamp(groups, PARAMS, over_members="sum")
    both = (_numpy("a") ** 2).sum(0) + (_numpy("b") ** 2).sum(0)
    np.testing.assert_allclose(scores[0], _slow_lamp(both), rtol=1e-5)
    np.testing.assert_allclose(scores[1], _slow_lamp((_numpy("c") ** 2).sum(0)), rtol=1e-5)
    ties = {**PARAMS, "c": jnp.ones((5, 4))}
    np.testing.assert_allclose(st.lamp(groups, ties)[1], [1 / 4, 1 / 3, 1 / 2, 1], rtol=1e-6)
    assert st.lamp(groups, PARAMS, skip=["a"])[0] is None


def test_lamp_of_concatenated_layers():
    def apply(params, x):
        parts = [jnp.tanh(x @ params["a"]), jnp.tanh(x @ params["b"])]
        return jnp.concatenate(parts, axis=1) @ params["z"]

    a, b = [2.0, 1.0, 3.0], [0.5, 0.25]
    params = {"a": jnp.array([a]), "b": jnp.array([b]), "z": jnp.ones((5, 1))}
    groups = st.channel_groups(apply, params, jnp.ones((1, 1)))
    want = [*_slow_lamp(np.square(a)), *_slow_lamp(np.square(b))]
    np.testing.assert_allclose(st.lamp(groups, params)[0], want, rtol=1e-6)
    # Each layer has a best channel of score one, and so none runs empty.
    kept = st.select(groups, st.lamp(groups, params), 0.6, allocation=st.globally())
    assert kept[0].tolist() == [False, False, True, True, False]
    part = st.lamp(groups, params, skip=["a"])[0]
    np.testing.assert_allclose(part, [np.inf] * 3 + want[3:], rtol=1e-6)


def _loss(params, x):
    return jnp.mean(jnp.square(_two(params, x)))


def test_hessian_is_the_change_of_a_quadratic_loss(groups):
    rng = np.random.default_rng(0)
    h = {path: rng.uniform(size=w.shape).astype(np.float32) for path, w in PARAMS.items()}

    def loss(params):
        return sum(0.5 * (h[path] * _numpy(path) ** 2)[..., params[path]].sum() for path in "abcz")

    scores = st.hessian(groups, PARAMS, h)
    full = {path: np.ones(w.shape[1], bool) for path, w in PARAMS.items()}
    for i, paths in enumerate(["ab", "c"]):
        for unit in range(groups[i].size):
            without = {**full, **{path: np.arange(groups[i].size) != unit for path in paths}}
            np.testing.assert_allclose(scores[i][unit], loss(full) - loss(without), rtol=1e-4)
    (score, _) = st.hessian(groups, PARAMS, {**h, "c": None}, members="first", skip=["c"])
    np.testing.assert_allclose(score, (0.5 * h["a"] * _numpy("a") ** 2).sum(0), rtol=1e-5)
    with pytest.raises(ValueError, match=r"the diagonal has nothing for 'c' of shape \(5, 4\)"):
        st.hessian(groups, PARAMS, {**h, "c": None})
    fisher = jp.scores.diagonal_fisher(lambda p, x: _loss(p, x[None]), PARAMS, [X])
    whole = jp.scores.fisher(PARAMS, fisher, where=lambda *_: True)
    want = np.asarray(whole["a"]).sum(0) + np.asarray(whole["b"]).sum(0)
    np.testing.assert_allclose(st.hessian(groups, PARAMS, fisher)[0], want, rtol=1e-5)


def test_the_estimated_diagonal_of_the_hessian():
    params = {"c": PARAMS["c"], "count": jnp.arange(3)}
    batches = [X[:3] @ PARAMS["a"], X[3:] @ PARAMS["b"]]

    def loss(params, h):
        return jnp.mean(jnp.square(jnp.tanh(h @ params["c"]) @ PARAMS["z"]))

    @quick
    def exact(c, h):
        whole = jax.hessian(lambda c: loss({"c": c.reshape(5, 4)}, h))(c.ravel())
        return whole

    matrices = np.mean([exact(params["c"], h) for h in batches], axis=0)
    found = st.hessian_diagonal(jax.random.key(0), loss, params, batches, samples=200)
    assert found["count"] is None
    assert found["c"].shape == (5, 4)
    # Five standard deviations of the mean of 200 draws of each of two batches.
    other = np.mean([np.square(exact(params["c"], h)) for h in batches], axis=0)
    deviation = np.sqrt((other.sum(1) - np.diagonal(other)) / 400)
    error = np.abs(np.asarray(found["c"]).ravel() - np.diagonal(matrices))
    assert (error < 5 * deviation).all()
    # It is nearer than nothing: the test would pass for zeros if the deviations were large.
    assert np.linalg.norm(error) < 0.5 * np.linalg.norm(np.diagonal(matrices))
    with pytest.raises(ValueError, match="`batches` is empty"):
        st.hessian_diagonal(jax.random.key(0), loss, params, [])


def _quantised(params, x):
    kernel = params["a"]["qvalue"].astype(jnp.float32)
    return jnp.tanh((x @ kernel) * params["a"]["scale"]) @ params["z"]


def test_quantised_weights_count_by_their_values():
    q = np.array([[-128, 3, -5, 127], [1, -3, 4, 0]], np.int8)
    scale = np.array([[0.5, 4.0, 1.0, 0.25]], np.float32)
    params = {"a": {"qvalue": jnp.array(q), "scale": jnp.array(scale)}, "z": jnp.ones((4, 1))}
    groups = st.channel_groups(_quantised, params, jnp.ones((1, 2)))
    real = q.astype(np.float64) * scale
    np.testing.assert_array_equal(st.magnitude(groups, params)[0], np.abs(real).sum(0))
    np.testing.assert_array_equal(
        st.lamp(groups, params)[0], np.float32(_slow_lamp((real**2).sum(0)))
    )
    distances = [sum(np.linalg.norm(u - v) for v in real.T) for u in real.T]
    np.testing.assert_allclose(st.geometric_median(groups, params)[0], distances, rtol=1e-6)
    # A scale for each entry of the sum, and one in tiles; both come before the one beside.
    rows = np.array([[2.0], [3.0]], np.float32)
    given = st.magnitude(groups, params, scales={"a/qvalue": jnp.array(rows)})
    np.testing.assert_array_equal(given[0], np.abs(q.astype(np.float64) * rows).sum(0))
    tiles = np.array([[1.0, 2.0]], np.float32)
    given = st.magnitude(groups, params, scales={"a/qvalue": tiles})
    np.testing.assert_array_equal(
        given[0], np.abs(q.astype(np.float64) * np.repeat(tiles, 2, 1)).sum(0)
    )
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit 'a/qvalue' of shape \(2, 4\)"):
        st.magnitude(groups, params, scales={"a/qvalue": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match="scales names 'z', which is no array of 8-bit integers"):
        st.magnitude(groups, params, scales={"z": 1.0})
    with pytest.raises(ValueError, match="scales gives 's' for 'a/qvalue', but there is no such"):
        st.magnitude(groups, params, scales={"a/qvalue": "s"})


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int4])
def test_integers_without_a_scale_count_as_they_are(dtype):
    def apply(params, x):
        return jnp.tanh(x @ params["a"].astype(jnp.float32)) @ params["z"]

    info = jnp.iinfo(dtype)
    a = np.array([[int(info.min), int(info.max), 1]])
    params = {"a": jnp.array(a, dtype), "z": jnp.ones((3, 1))}
    groups = st.channel_groups(apply, params, jnp.ones((1, 1)))
    (scores,) = st.magnitude(groups, params)
    assert scores.dtype == jnp.float32
    assert scores.tolist() == np.abs(a)[0].tolist()


def test_complex_weights_count_by_their_modulus():
    def apply(params, x):
        return jnp.tanh(jnp.abs(x.astype(jnp.complex64) @ params["a"])) @ params["z"]

    a = np.array([[3 + 4j, -1j, 2], [0, 1, -6 - 8j]], np.complex64)
    params = {"a": jnp.array(a), "z": normal(3, 1)}
    groups = st.channel_groups(apply, params, X[:, :2])
    assert st.magnitude(groups, params)[0].tolist() == [5, 2, 12]
    np.testing.assert_allclose(
        st.magnitude(groups, params, norm="l2")[0], np.linalg.norm(a, axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(
        st.lamp(groups, params)[0], _slow_lamp((np.abs(a) ** 2).sum(0)), rtol=1e-6
    )
    distances = [sum(np.linalg.norm(u - v) for v in a.T) for u in a.T]
    np.testing.assert_allclose(st.geometric_median(groups, params)[0], distances, rtol=1e-5)
    bad = {**params, "a": params["a"].at[0, 0].set(complex(0, np.nan))}
    with pytest.raises(ValueError, match="weights at 'a' hold NaN"):
        st.magnitude(groups, bad)


def test_taylor_of_complex_weights():
    """Features that meet each other are read by no kernel: gates stand behind complex ones."""

    def apply(params, x, gate=None):
        gate = jnp.ones((1, 3)) if gate is None else gate
        q, k = ((x.astype(jnp.complex64) @ params[n]) * gate.astype(jnp.complex64) for n in "qk")
        return jnp.real(q @ k.T)

    rng = np.random.default_rng(1)
    params = {n: jnp.array(rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3)), jnp.complex64)
              for n in "qk"}  # fmt: skip
    groups = st.channel_groups(apply, params, X)

    def loss(params, gate):
        return jnp.mean(jnp.sin(apply(params, X, gate)))

    grads, slope = quick(jax.grad(loss, argnums=(0, 1)))(params, jnp.ones((1, 3)))
    np.testing.assert_allclose(st.taylor(groups, params, grads)[0], slope[0] ** 2, rtol=1e-3)
