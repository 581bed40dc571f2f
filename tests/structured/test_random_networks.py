"""Networks drawn from a small grammar, with random channels removed: masked = shrunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jaxprune as jp
from tests.structured.checks import close, gradient_of, quick, with_something_left

BATCH, LENGTH = 2, 4


class Builder:
    """A program of layers on values [batch, length, channels], with parameters by number."""

    def __init__(self, draw):
        self.draw = draw
        self.shapes = {}
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    def param(self, *shape):
        name = f"p{len(self.shapes):02}"
        self.shapes[name] = shape
        return name

    def width(self, *divisors):
        return self.draw(st.sampled_from([2, 3, 4])) * int(np.lcm.reduce([1, *divisors]))


def dense(b, n):
    m, w, c = b.width(), None, None
    w, c = b.param(n, m), b.param(1, 1, m)
    return m, lambda p, x: x @ p[w] + p[c]


def convolution(b, n):
    groups = b.draw(st.sampled_from([g for g in (1, 2, 3, n) if n % g == 0]))
    m = b.width(groups)
    w = b.param(3, n // groups, m)

    def apply(p, x):
        return lax.conv_general_dilated(
            x, p[w], (1,), "SAME", feature_group_count=groups,
            dimension_numbers=("NWC", "WIO", "NWC"),
        )  # fmt: skip

    return m, apply


def pointwise(b, n):
    f = b.draw(st.sampled_from([jnp.tanh, jax.nn.relu, jnp.cos, jax.nn.gelu, lambda x: x * x]))
    return n, lambda p, x: f(x)


def scaled(b, n):
    s, t = b.param(1, 1, n), b.param(1, 1, n)
    return n, lambda p, x: x * p[s] + p[t]


def normalised(b, n):
    kind = b.draw(st.sampled_from(["batch", "layer", "layer, two passes", "group", "rms"]))
    groups = b.draw(st.sampled_from([g for g in (2, 3) if n % g == 0] or [1]))
    scale = b.param(1, 1, n)

    def apply(p, x):
        axes = {"batch": (0, 1), "group": (1, 3)}.get(kind, 2)
        y = x.reshape(*x.shape[:2], groups, n // groups) if kind == "group" else x
        mean = 0.0 if kind == "rms" else y.mean(axes, keepdims=True)
        if kind == "layer, two passes":
            variance = jnp.square(y - mean).mean(axes, keepdims=True)
        else:
            variance = jnp.square(y).mean(axes, keepdims=True) - jnp.square(mean)
        return ((y - mean) * lax.rsqrt(variance + 0.5)).reshape(x.shape) * p[scale]

    return n, apply


def residual(b, n):
    m, inner = layers(b, n, 2)
    w = b.param(m, n)
    return n, lambda p, x: x + inner(p, x) @ p[w]


def branches(b, n):
    (k, left), (m, right) = layers(b, n, 1), layers(b, n, 1)
    return k + m, lambda p, x: jnp.concatenate([left(p, x), right(p, x)], -1)


def gated(b, n):
    half = n // 2
    return half, lambda p, x: x[..., :half] * jax.nn.sigmoid(x[..., n - half :])


def shuffled(b, n):
    groups = b.draw(st.sampled_from([g for g in (2, 3) if n % g == 0] or [1]))
    return (
        n,
        lambda p, x: x.reshape(*x.shape[:2], groups, n // groups).swapaxes(2, 3).reshape(x.shape),
    )


def cut_out(b, n):
    start, step = b.draw(st.integers(0, n // 2)), b.draw(st.sampled_from([-1, 1, 2]))
    picked = range(n)[start::step]
    return len(picked), lambda p, x: x[..., start::step]


def padded(b, n):
    low, high = b.draw(st.integers(-1, 2)), b.draw(st.integers(0, 2))
    return n + low + high, lambda p, x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 0), (low, high, 0)))


def flattened(b, n):
    m = b.width()
    w, v = b.param(LENGTH * n, m), b.param(m, LENGTH * 2)

    def apply(p, x):
        h = x.reshape(x.shape[0], -1) @ p[w]
        return jnp.tanh(h @ p[v]).reshape(x.shape[0], LENGTH, 2)

    return 2, apply


def attention(b, n):
    heads, width = b.draw(st.sampled_from([2, 3])), b.draw(st.sampled_from([2, 4]))
    fused = b.draw(st.booleans())
    m = b.width()
    qkv = b.param(n, 3 * heads * width) if fused else b.param(3, n, heads, width)
    out = b.param(heads * width, m)

    def apply(p, x):
        if fused:
            parts = (x @ p[qkv]).reshape(*x.shape[:2], 3, heads, width)
            q, k, v = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        else:
            q, k, v = (jnp.einsum("btc,chd->bthd", x, p[qkv][i]) for i in range(3))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), -1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], -1) @ p[out]

    return m, apply


def recurrent(b, n):
    w = b.param(n, n)

    def apply(p, x):
        def step(h, row):
            h = jnp.tanh(h @ p[w] + row)
            return h, h

        return lax.scan(step, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    return n, apply


def softmax(b, n):
    return n, lambda p, x: jax.nn.softmax(x, axis=-1)


def gathered(b, n):
    picked = b.rng.integers(0, n, size=n)
    return n, lambda p, x: x.at[..., picked].get(mode="clip")


def pooled(b, n):
    return n, lambda p, x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2, 1), (1, 1, 1), ((0, 0), (1, 0), (0, 0))
    )


LAYERS = [
    dense, dense, convolution, convolution, pointwise, pointwise, scaled, normalised, residual,
    branches, gated, shuffled, cut_out, padded, flattened, attention, recurrent, pooled,
    softmax, gathered,
]  # fmt: skip


def layers(b, n, most):
    chosen = []
    for layer in b.draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=most)):
        if layer is gated and n < 4:
            continue
        n, f = layer(b, n)
        chosen.append(f)

    def apply(p, x):
        for f in chosen:
            x = f(p, x)
        return x

    return n, apply


@st.composite
def networks(draw):
    b = Builder(draw)
    first, (m, inner) = b.param(3, 12), layers(b, 12, 5)
    last = b.param(m, 2)
    params = {
        name: b.rng.normal(size=shape).astype(np.float32)
        / np.float32(np.sqrt(shape[-2] if len(shape) > 1 else 1))
        for name, shape in b.shapes.items()
    }  # fmt: skip

    def apply(p, x):
        return inner(p, x @ p[first]) @ p[last]

    return apply, params, b.rng


def random_kept(groups, rng):
    """At random, such that something is left along every axis."""
    return with_something_left(groups, [rng.random(group.size) < 0.6 for group in groups])


@settings(max_examples=8)
@given(networks())
def test_masked_is_shrunk(network):
    check(network)


@pytest.mark.slow
@settings(max_examples=60)
@given(networks())
def test_masked_is_shrunk_in_many(network):
    check(network)


def check(network):
    """In float64: some of these networks amplify the rounding of float32 a thousand times."""
    with jax.enable_x64(True):
        check_in_float64(network)


def check_in_float64(network):
    apply, params, rng = network
    params = {name: x.astype(np.float64) for name, x in params.items()}
    x = rng.normal(size=(BATCH, LENGTH, 3))
    groups = jp.structured.channel_groups(apply, params, x)
    kept = random_kept(groups, rng)
    masks = jp.structured.masks(groups, kept)
    # Where all positions of a unit are another's, too, and that goes, both do: the masks are equal.
    again = jp.structured.masks(groups, jp.structured.kept_of(groups, masks))
    jax.tree.map(np.testing.assert_array_equal, masks, again)
    masked = jp.apply_mask(params, masks)
    small_apply, small = jp.structured.shrink(apply, params, masks, x)

    @quick
    def both(masked, small):
        return gradient_of(apply, masked, (x,)), gradient_of(small_apply, small, (x,))

    (slope, result), (small_slope, small_result) = both(masked, small)
    if not np.any(result):  # a network of zeros: nothing to compare by
        assert not np.any(small_result)
        return
    close(result, small_result, 1e-9)
    close(jp.structured.cut(slope, groups, masks), small_slope, 1e-9)


def test_the_grammar_finds_channels():
    """Most of these networks have something to remove; some have axes of two kinds of units."""
    counts = []

    @settings(max_examples=25)
    @given(networks())
    def count(network):
        apply, params, _ = network
        groups = jp.structured.channel_groups(apply, params, jnp.ones((BATCH, LENGTH, 3)))
        counts.append(len(groups))

    count()
    assert np.mean(np.array(counts) > 1) > 0.5


@settings(max_examples=25)
@given(networks(), st.floats(0, 0.99), st.floats(0, 1), st.booleans())
def test_selections_hold_for_every_layer(network, sparsity, most, together):
    apply, params, rng = network
    groups = jp.structured.channel_groups(apply, params, jnp.ones((BATCH, LENGTH, 3)))
    for i, group in enumerate(groups):
        units = [part.units for part in groups.parts if part.group == i]
        assert sorted(np.concatenate(units)) == list(range(group.size))
    scores = [rng.normal(size=group.size) for group in groups]
    skipped = [groups.layers[rng.integers(len(groups.layers))]] if len(groups) else []
    allocation = jp.structured.globally() if together else jp.structured.uniform()
    options = {
        "allocation": allocation,
        "max_sparsity": most,
        "skip": [layer.names[0] for layer in skipped],
    }
    kept = jp.structured.select(groups, scores, sparsity, **options)
    jp.structured.masks(groups, kept)
    for i, (group, stays) in enumerate(zip(groups, kept, strict=True)):
        for member in group.role("out"):
            ours = np.unique(member.owners[member.owners >= 0])
            gone = (~stays[ours]).sum()
            assert gone <= min(round(most * len(ours)), len(ours) - 1)
            # The axis of one kernel may make the channels of several groups.
            if any(k.group == i and (member.path, member.axis) in k.kernels for k in skipped):
                assert gone == 0
