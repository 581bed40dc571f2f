"""Reductions over channels whose masked positions are not zero, but all hold the same value."""

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxprune as jp
from tests.structured.checks import check_shrunk, normal, random_kept, random_params
from tests.structured.test_models_foreign import of_equinox, of_haiku, of_linen, of_nnx
from tests.structured.test_rules import (
    between,
    check,
    conv,
    layer_norm,
    params_of,
    primitives,
    reasons,
)

f32 = jnp.float32


# Norms over the channels, written out.


def of_numpy_like(h):
    """The functions of `jax.numpy`, each of which is a call in the program."""
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.var(h, axis=-1, keepdims=True) + 1e-2)


def of_keras(h):
    """As in `keras.layers.LayerNormalization`: the gradient of the mean is stopped once."""
    mean = jnp.mean(h, axis=-1, keepdims=True)
    squared = jnp.square(h - lax.stop_gradient(mean))
    inverse = lax.rsqrt(jnp.mean(squared, axis=-1, keepdims=True) + 1e-2)
    return h * inverse + (-mean * inverse)


def of_one_row(h):
    return jax.vmap(functools.partial(layer_norm_of_a_row))(h)


def layer_norm_of_a_row(row):
    mean = row.mean()
    centred = row - mean
    return centred * lax.rsqrt(jnp.vdot(centred, centred) / row.size + 1e-2)


def twice(h):
    """The second norm reads channels that are not zero where they are masked."""
    return layer_norm(layer_norm(h, two_passes=True) * 2.0 + 1.0, two_passes=True)


def root_mean_square(h):
    h = h + 0.5  # not zero where it is masked
    return h * lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-2)


def group_norm(h, groups=2):
    h = h.reshape(2, groups, -1)
    mean = h.mean(-1, keepdims=True)
    variance = jnp.square(h - mean).mean(-1, keepdims=True)
    return ((h - mean) * lax.rsqrt(variance + 1e-2)).reshape(2, -1)


def whole_norm(h):
    """Over the batch and the channels."""
    return (h - h.mean()) * lax.rsqrt(jnp.var(h) + 1e-2)


def deviation(h):
    """The mean of what is not squared, and the largest."""
    centred = jnp.abs(h - h.mean(-1, keepdims=True))
    return centred / (1.0 + centred.mean(-1, keepdims=True) + centred.max(-1, keepdims=True))


def of_both_branches(h):
    """Channels of two norms side by side hold two different values where they are masked."""
    a, b = layer_norm(h[:, :3], True), layer_norm(jnp.cos(h[:, 3:]), True)
    both = jnp.concatenate([a, b], axis=1)
    return both / (1.0 + jnp.abs(both).sum(1, keepdims=True))


def of_a_transposed(h):
    h = (h - h.mean(1, keepdims=True)).T.reshape(6, 1, 2)
    return (h / jnp.sqrt(0.1 + jnp.square(h).sum((0, 1), keepdims=True))).reshape(6, 2).T


NORMS = {
    "two passes": functools.partial(layer_norm, two_passes=True),
    "as calls": of_numpy_like,
    "as in Keras": of_keras,
    "of one row, mapped": of_one_row,
    "twice": twice,
    "root mean square": root_mean_square,
    "whole": whole_norm,
    "deviation": deviation,
    "side by side": of_both_branches,
    "transposed": of_a_transposed,
    "compiled": jax.jit(jax.jit(functools.partial(layer_norm, two_passes=True))),
    "rematerialised": jax.checkpoint(functools.partial(layer_norm, two_passes=True)),
    "in a loop": lambda h: lax.fori_loop(0, 3, lambda _, h: jnp.tanh(layer_norm(h, True) * h), h),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_over_channels(name):
    body = NORMS[name]
    check(between(body), LAYER, normal(2, 3), expected={"a": 6}, export=name == "two passes")


LAYER = {"a": (3, 6), "z": (6, 2)}


def test_a_norm_over_groups_of_channels():
    # Whole groups, and the same channel of every group.
    check(between(group_norm), LAYER, normal(2, 3), expected={"a:1": 2, "a:1#2": 3}, export=True)


def test_a_norm_over_images_and_channels():
    def apply(p, x):
        h = conv(x, p["a"])
        mean = h.mean((1, 2), keepdims=True)
        h = (h - mean) * lax.rsqrt(jnp.square(h - mean).mean((1, 2), keepdims=True) + 1e-2)
        return conv(h, p["z"])

    shapes = {"a": (3, 3, 4), "z": (3, 4, 2)}
    check(apply, shapes, normal(2, 8, 3), expected={"a": 4}, export=True)


# Norms of weights over what they read.


def standardised(w, axes):
    mean = w.mean(axes, keepdims=True)
    return (w - mean) * lax.rsqrt(jnp.square(w - mean).mean(axes, keepdims=True) + 1e-2)


def standardised_dense(p, x):
    return jax.nn.relu(x @ p["a"]) @ standardised(p["b"], 0) @ p["z"]


def standardised_convolution(p, x):
    kernel = p["b"] - jnp.mean(p["b"], axis=(0, 1), keepdims=True)
    kernel = kernel / jnp.sqrt(1e-2 + jnp.var(p["b"], axis=(0, 1), keepdims=True))
    return conv(conv(jax.nn.relu(conv(x, p["a"])), kernel), p["z"])


def standardised_heads(p, x):
    h = jnp.einsum("bc,chd->bhd", jnp.tanh(x @ p["a"]), standardised(p["b"], (0,)))
    return jnp.einsum("bhd,hdc->bc", jnp.tanh(h), p["z"])


def standardised_twice(p, x):
    """Both operands of a product hold something where they are masked."""
    h = layer_norm(x @ p["a"], two_passes=True)
    return h @ standardised(p["b"], 0) @ p["z"]


def standardised_as_a_whole(p, x):
    return jnp.tanh(x @ p["a"]) @ standardised(p["b"], (0, 1)) @ p["z"]


DENSE, THREE = {"a": (3, 6), "b": (6, 4), "z": (4, 2)}, {"a": 6, "b": 4}
WEIGHTS = {
    "dense": (standardised_dense, DENSE, normal(2, 3), THREE),
    "convolution": (
        standardised_convolution,
        {"a": (3, 3, 4), "b": (3, 4, 5), "z": (3, 5, 2)},
        normal(2, 8, 3),
        {"a": 4, "b": 5},
    ),
    "heads": (
        standardised_heads,
        {"a": (3, 6), "b": (6, 3, 4), "z": (3, 4, 2)},
        normal(2, 3),
        {"a": 6, "b:1": 3, "b:2": 4},
    ),
    "of what was normed": (standardised_twice, DENSE, normal(2, 3), THREE),
    "as a whole": (standardised_as_a_whole, DENSE, normal(2, 3), THREE),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_standardised(name):
    apply, shapes, x, expected = WEIGHTS[name]
    check(apply, shapes, x, expected=expected, export=name == "dense")


# Maxima, and other reductions.


def straight_through(x, rounded):
    return x + lax.stop_gradient(rounded - x)


def quantised(w, axis):
    scale = jnp.max(jnp.abs(w), axis=axis, keepdims=True) / 127.0
    return straight_through(w, jnp.round(w / (scale + 1e-3)) * scale)


def weights_of_a_filter(p, x):
    return jnp.tanh(x @ quantised(p["a"], 0)) @ quantised(p["z"], 0)


def weights_as_a_whole(p, x):
    return jnp.tanh(x @ quantised(p["a"], None)) @ quantised(p["z"], None)


def tokens(p, x):
    return quantised(jax.nn.relu(x @ p["a"]), 1) @ p["z"]


def attention_over_places(p, x):
    """The second half of CBAM: where, from the mean and the largest of the channels."""
    h = jax.nn.relu(conv(x, p["a"]))
    pooled = jnp.concatenate([h.mean(2, keepdims=True), h.max(2, keepdims=True)], axis=2)
    return conv(h * jax.nn.sigmoid(conv(pooled, p["w"])), p["z"])


MAXIMA = {
    "weights of a filter": (weights_of_a_filter, LAYER, normal(2, 3), {"a": 6}),
    "weights as a whole": (weights_as_a_whole, LAYER, normal(2, 3), {"a": 6}),
    "tokens": (tokens, LAYER, normal(2, 3), {"a": 6}),
    "attention over places": (
        attention_over_places,
        {"a": (3, 3, 4), "w": (3, 2, 1), "z": (3, 4, 2)},
        normal(2, 8, 3),
        {"a": 4},
    ),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maxima(name):
    apply, shapes, x, expected = MAXIMA[name]
    check(apply, shapes, x, expected=expected, export=name == "tokens")


def largest(h):
    return h.max(1, keepdims=True)


def negative(h):
    """The masked zeros are the largest."""
    return h - (-jnp.exp(h)).max(1, keepdims=True) - (-jax.nn.relu(h) - 0.1).max(1, keepdims=True)


def parity(h):
    odd = lax.reduce_xor(jnp.cos(h) > 0.1, (1,))
    return h * jnp.where(odd, 1.0, 2.0)[:, None]


OTHERS = {
    # name: (number of channels after it, body)
    "largest": (1, largest),
    "largest of what is negative": (6, negative),
    "smallest": (1, lambda h: h.min(1, keepdims=True)),
    "exponentials": (1, lambda h: jnp.exp(h).sum(1, keepdims=True)),
    "product": (1, lambda h: (1.5 + jnp.tanh(h)).prod(1, keepdims=True)),
    "product of zeros": (6, lambda h: h + h.prod(1, keepdims=True)),
    "logarithm of a sum": (1, lambda h: jax.nn.logsumexp(h, axis=1, keepdims=True)),
    "softmax": (6, jax.nn.softmax),
    "all": (6, lambda h: h * jnp.where((h > -1.0).all(1, keepdims=True), 1.0, 2.0)),
    "any": (6, lambda h: h * jnp.where((h < 0.1).any(1, keepdims=True), 1.0, 2.0)),
    "parity": (6, parity),
    "counted": (6, lambda h: h / jnp.ones_like(h).sum(1, keepdims=True)),
    "product of two": (6, lambda h: h * (jnp.cos(h) @ jnp.exp(h).T).sum()),
    "product, mapped": (6, lambda h: jnp.einsum("bi,bi->b", jnp.cos(h), jnp.exp(h))[:, None] * h),
    "product over two axes": (6, lambda h: h * jnp.einsum("bi,bi->", jnp.cos(h), jnp.exp(h))),
    "product of a product": (
        6,
        lambda h: h * jnp.square(jnp.exp(h).T @ jnp.cos(h)).sum(),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_reductions(name):
    m, body = OTHERS[name]
    check(between(body), {"a": (3, 6), "z": (m, 2)}, normal(2, 3), expected={"a": 6})


def test_counts_overflow_as_sums_do():
    def apply(p, x):
        h = x @ p["a"]
        ones = (jnp.cos(h) > -2.0).astype(jnp.int8)
        total = lax.reduce_sum(ones, (1,)).astype(f32)  # 400 of them: -112
        return (h * total[:, None]) @ p["z"]

    check(apply, {"a": (3, 400), "z": (400, 2)}, normal(2, 3), expected={"a": 400}, fraction=0.9)


def test_convolutions_of_what_is_not_zero():
    """The ends of an image are padded with zeros also where the channels are not zero."""

    def apply(p, x):
        return conv(conv(jnp.cos(conv(x, p["a"])), jnp.cos(p["b"])), p["z"])

    shapes = {"a": (3, 3, 4), "b": (3, 4, 5), "z": (3, 5, 2)}
    check(apply, shapes, normal(2, 8, 3), expected={"a": 4, "b": 5}, export=True)


def test_what_is_not_the_same_at_all_masked_positions_stays():
    def centred(h, around):
        return jnp.square(h - around).sum(1, keepdims=True) * h

    of_params = lambda p, x: centred(x @ p["a"], p["m"]) @ p["z"]  # noqa: E731
    check(of_params, {"a": (3, 6), "m": (1, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6})
    table = np.arange(6, dtype=np.float32)[None]
    for body in (
        lambda h: centred(h, table),
        lambda h: centred(h, jnp.arange(6, dtype=f32)[None]),
        lambda h: centred(h, jax.random.normal(jax.random.key(0), (1, 6))),
        lambda h: centred(h, jnp.cumsum(jnp.cos(h), axis=1)),
    ):
        groups = jp.structured.channel_groups(between(body), params_of(LAYER), normal(2, 3))
        assert len(groups) == 0
        assert reasons(groups, "a", 1)


def test_what_a_loop_carries_is_known_only_if_it_is_zero():
    """A mean that a loop carries beside the channels could be another in every round."""

    def body(h):
        step = lambda c, _: (c - c.mean(1, keepdims=True), None)  # noqa: E731
        h = lax.scan(step, h, length=2)[0]
        return h / (1.0 + jnp.square(h).sum(1, keepdims=True))

    groups = jp.structured.channel_groups(between(body), params_of(LAYER), normal(2, 3))
    assert len(groups) == 0
    assert "not zero where it is masked, in reduce_sum" in reasons(groups, "a", 1)


def test_nothing_is_added_where_nothing_is_removed():
    body, x = between(functools.partial(layer_norm, two_passes=True)), normal(2, 3)
    params = params_of(LAYER)
    groups = jp.structured.channel_groups(body, params, x)
    masks = jp.structured.masks(groups, [np.ones(6, bool)])
    small_apply, _ = jp.structured.shrink(body, params, masks, x)
    plain = [name for name in primitives(body, params, x) if name not in ("jit", "pjit")]
    assert sorted(primitives(small_apply, params, x)) == sorted(plain)


def test_the_norm_of_a_small_network_by_hand():
    """Against NumPy: the mean over six channels of which two are left."""
    body, x = between(functools.partial(layer_norm, two_passes=True)), normal(2, 3)
    params = params_of(LAYER)
    groups = jp.structured.channel_groups(body, params, x)
    stays = np.array([True, False, False, True, False, False])
    small_apply, small = jp.structured.shrink(body, params, jp.structured.masks(groups, [stays]), x)
    h = np.zeros((2, 6))
    h[:, stays] = np.asarray(x) @ np.asarray(params["a"])[:, stays]
    normed = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-2)
    expected = normed[:, stays] @ np.asarray(params["z"])[stays]
    np.testing.assert_allclose(small_apply(small, x), expected, rtol=1e-5)


# Residual streams of transformers with the norms of frameworks.


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.LayerNorm, use_fast_variance=False)
        x = nn.Dense(6, name="embed")(x)
        x = x + nn.MultiHeadDotProductAttention(2, qkv_features=4)(norm()(x))
        x = x + nn.Dense(6)(jax.nn.gelu(nn.Dense(8)(norm()(x))))
        return nn.Dense(2, name="head")(norm()(x))


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.head = nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)
        self.up, self.down = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, use_fast_variance=False, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        return self.head(x + self.down(jax.nn.gelu(self.up(self.norm(x)))))


class EquinoxBlock(eqx.Module):
    embed: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    norms: list
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Linear(3, 6, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, 6, key=keys[1])
        self.norms = [eqx.nn.LayerNorm(6), eqx.nn.RMSNorm(6)]
        self.mlp = eqx.nn.MLP(6, 6, 8, 1, key=keys[2])
        self.head = eqx.nn.Linear(6, 2, key=keys[3])

    def __call__(self, x):
        x = jax.vmap(self.embed)(x)
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h)
        x = x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))
        return jax.vmap(self.head)(x)


def haiku_block(x):
    norm = functools.partial(hk.LayerNorm, -1, True, True)
    x = hk.Linear(6, name="embed")(x)
    h = norm()(x)
    x = x + hk.MultiHeadAttention(2, 3, w_init=hk.initializers.VarianceScaling())(h, h, h)
    x = x + hk.Linear(6)(jax.nn.gelu(hk.Linear(8)(norm()(x))))
    return hk.Linear(2, name="head")(norm()(x))


BLOCKS = {
    "linen": (lambda x: of_linen(LinenBlock(), x), "params/embed/kernel"),
    "nnx": (lambda x: of_nnx(lambda: NNXBlock(nnx.Rngs(0))), "embed/kernel/value"),
    "equinox": (lambda x: of_equinox(EquinoxBlock(jax.random.key(0))), "embed/weight"),
    "haiku": (lambda x: of_haiku(haiku_block, x), "params/embed/w"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_residual_streams_of_frameworks(name):
    make, stream = BLOCKS[name]
    x = normal(2, 5, 3)
    apply, params = make(x)
    params = random_params(params)
    groups = jp.structured.channel_groups(apply, params, x)
    assert groups[stream].size == 6
    # The scales of all norms go with it.
    assert sum(m.role == "along" for m in groups[stream].members) >= 2
    check_shrunk(apply, params, (x,), 0.5, groups=groups, export=name in ("linen", "haiku"))


# Parameters that need not be zero for the channel to vanish.


def state_space(p, x):
    """S5's: zeros of the eigenvalues would be 0/0."""
    a = jnp.exp(p["eigen"] * jnp.exp(p["log_step"]))
    b = ((a - 1.0) / p["eigen"])[:, None] * p["b"]
    h = lax.scan(lambda h, u: (a * h + b @ u,) * 2, jnp.zeros(6), x)[1]
    return jnp.tanh(h @ p["c"]) @ p["z"]


def state_space_complex(p, x):
    eigen = lax.complex(-jnp.exp(p["re"]), p["im"])
    step = jnp.exp(p["log_step"]).astype(jnp.complex64)
    a = jnp.exp(eigen * step)
    b = ((a - 1.0) / eigen)[:, None] * lax.complex(p["b"], p["b2"])
    inputs = x.astype(jnp.complex64) @ b.T
    h = lax.associative_scan(
        lambda s, t: (s[0] * t[0], t[0] * s[1] + t[1]),
        (jnp.broadcast_to(a, inputs.shape), inputs),
    )[1]
    return jnp.real(h) @ p["c"]


def weight_normalised(p, x):
    """Salimans and Kingma 2016, without a small number inside the root."""
    w = p["scale"] * p["a"] / jnp.linalg.norm(p["a"], axis=0, keepdims=True)
    return jax.nn.relu(x @ w + p["b"]) @ p["z"]


def of_unit_norm(p, x):
    """Filters of norm one have no scale that could be zero: who reads them is."""
    return jax.nn.relu(x @ (p["a"] / jnp.linalg.norm(p["a"], axis=0)[None])) @ p["z"]


def by_temperature(p, x):
    return jnp.tanh(x @ p["a"] / p["t"]) @ p["z"]


SPACE = {"eigen": (6,), "log_step": (6,), "b": (6, 3), "c": (6, 4), "z": (4, 2)}
COMPLEX = {"re": (6,), "im": (6,), "log_step": (6,), "b": (6, 3), "b2": (6, 3), "c": (6, 2)}
SPARED = {
    # name: (function, shapes, sizes, what is not zeroed)
    "state space": (state_space, SPACE, {"b": 6, "c": 4}, ["eigen"]),
    # -exp(re) is not zero: only what is surely so makes 0/0.
    "state space, complex": (state_space_complex, COMPLEX, {"b": 6}, []),
    "weight normalised": (
        weight_normalised,
        {"a": (3, 6), "scale": (1, 6), "b": (1, 6), "z": (6, 2)},
        {"a": 6},
        ["a"],
    ),
    "of unit norm": (of_unit_norm, LAYER, {"a": 6}, ["a"]),
    "by temperature": (
        by_temperature,
        {"a": (3, 6), "t": (1, 6), "z": (6, 2)},
        {"a": 6},
        ["t"],
    ),
}


@pytest.mark.parametrize("name", SPARED)
def test_members_that_need_not_be_zero(name):
    apply, shapes, expected, unzeroed = SPARED[name]
    x = normal(5, 3)
    groups = check(apply, shapes, x, expected=expected, export=name == "state space")
    ours = {m.path for group in groups for m in group.members if not m.zeroed}
    assert ours == set(unzeroed)
    params = params_of(shapes)
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    assert all(masks[path] is None for path in unzeroed)
    assert np.isfinite(apply(jp.apply_mask(params, masks), x)).all()
    # What was read off the masks is what they were made from.
    again = jp.structured.masks(groups, jp.structured.kept_of(groups, masks))
    jax.tree.map(np.testing.assert_array_equal, masks, again)
    assert ("not zeroed by masks" in str(groups)) == bool(unzeroed)


def test_members_that_nothing_makes_zero_keep_their_channels():
    """No mask could say that such a channel is gone."""

    def apply(p, x):
        return x @ p["a"] @ (1.0 / p["t"]) / 3.0

    params = params_of({"a": (3, 6), "t": (6,)})
    groups = check(apply, {"a": (3, 6), "t": (6,)}, normal(2, 3), expected={"a": 6})
    assert {m.path: m.zeroed for m in groups["a"].members} == {"a": True, "t": False}

    def alone(p, x):
        return x.sum() * jnp.square(jnp.log(jnp.abs(p["t"]))).sum()

    groups = jp.structured.channel_groups(alone, {"t": params["t"]}, normal(2, 3))
    assert len(groups) == 0
    assert "not finite where it is masked" in reasons(groups, "t", 0)
