"""Cases in which following axes is easily wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jaxprune as jp
from tests.structured.checks import quick, random_kept

st = jp.structured
X = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
PARAMS = {
    "w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32),
    "out": jnp.ones((6, 2)),
}


def same(apply, params=PARAMS, x=X):
    """Masked = shrunk for a third of every group; returns how many channels there are."""
    groups = st.channel_groups(apply, params, x)
    masks = st.masks(groups, random_kept(groups, 1 / 3))
    small_apply, small = st.shrink(apply, params, masks, x)
    masked = jp.apply_mask(params, masks)
    a, b = quick(lambda masked, small: (apply(masked, x), small_apply(small, x)))(masked, small)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return sum(group.size for group in groups)


def test_a_filling_that_is_not_zero_is_no_channel_that_vanishes():
    def apply(fill):
        def f(params, x):
            table = params["w"]
            found = table.at[jnp.array([0, 7])].get(mode="fill", fill_value=fill)
            return found.sum(-1) + x[:1, 0]

        return f

    assert same(apply(2.0)) == 0
    assert same(apply(0.0)) == 6


@pytest.mark.parametrize(("padding", "channels"), [((1, 1), 0), ((0, 0), 6)])
def test_windows_in_padding_alone_have_no_zero(padding, channels):
    def apply(params, x):
        h = x @ params["w"]
        pads = (padding, (0, 0))
        h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 1), (1, 1), pads)
        return jnp.maximum(h, -3.0).sum(-1)

    assert same(apply) == channels


def test_a_known_predicate_chooses_its_case():
    def apply(params, x):
        h = x @ params["w"]
        # 0 / 0 where a channel is masked: not zero.
        return ((h - h.mean(0, keepdims=True)) / h.std(0, keepdims=True)).sum(-1)

    assert same(apply) == 0


def test_bits_of_another_width_are_no_crash():
    def apply(params, x):
        bits = lax.bitcast_convert_type(x @ params["w"], jnp.uint8)
        return bits.astype(jnp.float32).sum((1, 2))

    assert same(apply) == 0


def test_several_arrays_are_put_at_once():
    def apply(params, x):
        h, out = jax.device_put((x @ params["w"], params["out"]))
        return h @ out

    assert same(apply) == 6


def biased(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None]) @ params["out"]


def test_masks_of_filters_alone_are_completed():
    params = {**PARAMS, "b": jnp.ones(6)}
    groups = st.channel_groups(biased, params, X)
    filters = {"w": jnp.ones((3, 6), bool).at[:, 1].set(False), "b": None, "out": None}
    with pytest.raises(ValueError, match=r"split channel 1 of 'w': .* but 'b' is kept at position"):
        st.shrink(biased, params, filters, X)
    kept = st.kept_of(groups, filters, role="out")
    np.testing.assert_array_equal(kept[0], [True, False, True, True, True, True])
    _, small = st.shrink(biased, params, st.masks(groups, kept), X)
    assert small["b"].shape == (5,)


def test_soft_filter_pruning_can_be_shrunk():
    params = {**PARAMS, "b": jnp.ones(6)}
    where = lambda path, leaf: path == "w"  # noqa: E731
    tx = jp.transforms.soft(
        optax.sgd(0.1), 0.5, every=1, total_steps=2, where=where, pattern=jp.masks.channels(-1)
    )
    state, trained = tx.init(params), params

    @quick
    def step(state, trained):
        grads = jax.grad(lambda p: jnp.square(biased(p, X)).sum())(trained)
        updates, state = tx.update(grads, state, trained)
        return state, optax.apply_updates(trained, updates)

    for _ in range(2):
        state, trained = step(state, trained)
    groups = st.channel_groups(biased, trained, X)
    kept = st.kept_of(groups, jp.transforms.get_mask(state), role="out")
    _, small = st.shrink(biased, trained, st.masks(groups, kept), X)
    assert small["w"].shape == (3, 3)


def test_widths_of_heads_and_their_features():
    def apply(params, x):
        q = jnp.einsum("bi,ihd->bhd", x, params["q"])
        return jnp.einsum("bhd,hdo->bo", q, params["o"])

    params = {"q": jnp.ones((3, 2, 4)), "o": jnp.ones((2, 4, 1))}
    groups = st.channel_groups(apply, params, X)
    kept = [np.arange(g.size) < g.size - 1 for g in groups]
    assert st.widths(groups, st.masks(groups, kept)) == {"q:1": 1, "q:2": 3}


def test_scores_of_minus_infinity_go_first():
    groups = st.channel_groups(lambda p, x: x @ p["w"] @ p["out"], PARAMS, X)
    scores = [np.array([1.0, -np.inf, 2.0, -np.inf, 3.0, -np.inf])]
    (kept,) = st.select(groups, scores, 0.5)
    np.testing.assert_array_equal(kept, [True, False] * 3)


def test_parameters_that_are_one_array():
    def apply(w, x):
        return (x @ w).sum(-1)

    groups = st.channel_groups(apply, PARAMS["w"], X)
    masks = st.masks(groups, [np.arange(6) < 4])
    state = st.cut(optax.adam(1e-3).init(PARAMS["w"]), groups, masks)
    assert state[0].mu.shape == (3, 4)


def test_what_shrinks_with_a_parameter_is_reported():
    def apply(params, x):
        h = x @ params["w"]
        return h @ params["out"], {"stats": {"mean": 0.9 * params["stats"]["mean"] + h.mean(0)}}

    params = {**PARAMS, "stats": {"mean": jnp.zeros(6)}}
    groups = st.channel_groups(apply, params, X)
    assert groups.state == (("1/stats/mean", "stats/mean"),)
    assert "results that shrink with a parameter: 1/stats/mean with stats/mean" in str(groups)


def test_groups_without_a_norm_can_be_left_out():
    groups = st.channel_groups(biased, {**PARAMS, "b": jnp.ones(6)}, X)
    with pytest.raises(ValueError, match=r"Leave the layer out, skip=\['w'\]"):
        st.norm_scale(groups, {**PARAMS, "b": jnp.ones(6)})
    assert st.norm_scale(groups, {**PARAMS, "b": jnp.ones(6)}, skip=["w"]) == (None,)


def test_expressions_tell_heads_from_features():
    def apply(params, x):
        q = jnp.einsum("bi,ihd->bhd", x, params["q"])
        return jnp.einsum("bhd,hdo->bo", q, params["o"])

    params = {"q": jnp.ones((3, 2, 4)), "o": jnp.ones((2, 4, 1))}
    groups = st.channel_groups(apply, params, X)
    scores = [np.arange(g.size, dtype=float) for g in groups]
    for rule in ("q:2", ".*q:2"):
        kept = st.select(groups, scores, allocation=st.ratios({rule: 0.5}))
        assert [int(k.sum()) for k in kept] == [2, 2]
    for rule in ("q", "q.?"):
        with pytest.raises(ValueError, match=r"several groups|no parameter 'q\.\?'"):
            st.select(groups, scores, allocation=st.ratios({rule: 0.5}))


@pytest.mark.parametrize("allocation", [st.ratios, st.to_widths])
def test_no_path_at_all(allocation):
    with pytest.raises(ValueError, match="names no path, so that nothing would be removed"):
        allocation({})
