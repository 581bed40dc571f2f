"""One small network for every family of primitives: what is found, and that it is exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from tests.structured.checks import check_shrunk, normal, random_kept, random_params

f32 = jnp.float32


def params_of(shapes):
    """Random parameters of the given shapes: tuples, or structs for other types."""

    def struct(x):
        return jax.ShapeDtypeStruct(x, f32) if isinstance(x, tuple) else x

    return random_params(jax.tree.map(struct, shapes, is_leaf=lambda x: isinstance(x, tuple)))


def sizes(groups):
    return {group.name: group.size for group in groups}


def reasons(groups, path, axis):
    """Why positions on an axis of a parameter cannot vanish, as one text."""
    return "; ".join(f.reason for f in groups.fixed if (f.path, f.axis) == (path, axis))


def removable(groups, path, axis):
    """How many positions on an axis of a parameter are in a group."""
    owned = [m.owners >= 0 for g in groups for m in g.members if (m.path, m.axis) == (path, axis)]
    return int(np.any(owned, axis=0).sum()) if owned else 0


def check(apply, shapes, *inputs, expected, fraction=0.5, **options):
    """The groups have these sizes, and are exact. Returns them."""
    params = params_of(shapes)
    groups = jp.structured.channel_groups(apply, params, *inputs)
    assert sizes(groups) == expected, str(groups)
    check_shrunk(apply, params, inputs, fraction, groups=groups, **options)
    return groups


def primitives(f, *args):
    """The names of all primitives of a function, inner ones included."""

    def names(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn.primitive.name
            for param in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(param, "eqns"):
                    yield from names(getattr(param, "jaxpr", param))

    return list(names(jax.make_jaxpr(f)(*args).jaxpr))


# Between two dense layers: [2, n] -> [2, m]. The parameters are a [3, n], z [m, 2].


def between(body):
    return lambda p, x: body(x @ p["a"]) @ p["z"]


def layer_norm(h, two_passes=False):
    mean = h.mean(1, keepdims=True)
    if two_passes:
        variance = ((h - mean) ** 2).mean(1, keepdims=True)
    else:
        variance = (h**2).mean(1, keepdims=True) - mean**2
    return (h - mean) * lax.rsqrt(variance + 1e-2)


def heads(h):
    q = h.reshape(2, 3, 4)
    return jnp.tanh(q * q.sum(2, keepdims=True)).reshape(2, 12)


def shuffle(h):
    return h.reshape(2, 2, 4).swapaxes(1, 2).reshape(2, 8)


def gated(h):
    u, v = jnp.split(h, 2, axis=1)
    return u * jax.nn.sigmoid(v)


def in_scan(h):
    return lax.scan(lambda c, _: (jnp.tanh(c) + h, c * c), h, None, length=3)[0]


def scanned_out(h):
    return lax.scan(lambda c, _: (jnp.sin(c), c * c), h, None, length=3)[1].sum(0)


def in_cond(h):
    return lax.cond(h[0].sum() > 0, lambda h: jnp.tanh(h), lambda h: h * 2, h)


def in_switch(h):
    branches = [lambda h: h, lambda h: -h, lambda h: jnp.zeros_like(h)]
    return lax.switch(jnp.int32(1), branches, h)


def twice(h):
    @jax.jit
    def f(h):
        return jax.jit(jnp.sin)(h) * 2

    return f(f(h))


def attention_of_itself(h):
    q, k, v = (h[:, i : i + 4] for i in (0, 4, 8))
    weights = jax.nn.softmax(q @ k.T / 2.0, axis=1)
    return weights @ v


REMOVABLE = {
    # name: (n, m, body, {name of a group: size})
    "identity": (6, 6, lambda h: h, {"a": 6}),
    "residual": (6, 6, lambda h: h + jnp.tanh(h), {"a": 6}),
    "transpose": (6, 6, lambda h: jnp.sin(h.T).T, {"a": 6}),
    "heads": (12, 12, heads, {"a:1": 3, "a:1#2": 4}),
    "concatenate": (6, 12, lambda h: jnp.concatenate([jnp.tanh(h), h], 1), {"a": 6}),
    "concatenate and split": (
        6,
        6,
        lambda h: jnp.split(jnp.concatenate([h, jnp.sin(h)], 1), [6], axis=1)[1],
        {"a": 6},
    ),
    "gated halves": (8, 4, gated, {"a": 4}),
    "halves, one negated": (8, 8, lambda h: jnp.concatenate([h[:, 4:], -h[:, :4]], 1), {"a": 8}),
    "channel shuffle": (8, 8, shuffle, {"a:1": 2, "a:1#2": 4}),
    "every second": (8, 4, lambda h: h[:, ::2], {"a": 4}),
    "every third from 1": (8, 3, lambda h: h[:, 1::3], {"a": 3}),
    "reversed": (6, 6, lambda h: h[:, ::-1], {"a": 6}),
    "tile": (6, 12, lambda h: jnp.tile(h, (1, 2)), {"a": 6}),
    # Either copy of all channels can go, too.
    "repeat": (6, 12, lambda h: jnp.repeat(h, 2, axis=1), {"a": 6, "z": 2}),
    "stack": (6, 6, lambda h: jnp.stack([h, jnp.tanh(h)], 1).sum(1), {"a": 6}),
    "unstack rows": (6, 6, lambda h: jnp.stack(jnp.unstack(h, axis=0)[::-1]), {"a": 6}),
    # What is padded can go like the channels beside it.
    "pad": (6, 9, lambda h: jnp.pad(h, ((0, 0), (2, 1))), {"a": 9}),
    "pad with ones": (
        6,
        10,
        lambda h: jnp.pad(h, ((0, 0), (2, 2)), constant_values=1.0),
        {"a": 10},
    ),
    "pad rows": (6, 6, lambda h: jnp.pad(h, ((1, 2), (0, 0)))[1:3], {"a": 6}),
    "negative padding": (6, 3, lambda h: lax.pad(h, 0.0, ((0, 0, 0), (-1, -2, 0))), {"a": 3}),
    "mixed padding": (6, 6, lambda h: lax.pad(h, 0.0, ((0, 0, 0), (-2, 2, 0))), {"a": 6}),
    "iota": (6, 6, lambda h: h * (1 + jnp.arange(6, dtype=f32))[None], {"a": 6}),
    "captured constant": (6, 6, lambda h: h + np.arange(6, dtype=np.float32)[None], {"a": 6}),
    "identity matrix": (6, 6, lambda h: h @ jnp.eye(6), {"a": 6, "z": 6}),
    "broadcast": (
        6,
        6,
        lambda h: jnp.broadcast_to(h[:, None], (2, 3, 6)).sum(1),
        {"a": 6},
    ),
    "sum of zeros": (6, 1, lambda h: h.sum(1, keepdims=True), {"a": 6}),
    "sum of tanh": (6, 1, lambda h: jnp.tanh(h).sum(1, keepdims=True), {"a": 6}),
    "rms norm": (6, 6, lambda h: h * lax.rsqrt((h * h).mean(1, keepdims=True) + 1.0), {"a": 6}),
    "layer norm": (6, 6, layer_norm, {"a": 6}),
    "max over the batch": (6, 6, lambda h: h - h.max(0, keepdims=True), {"a": 6}),
    "sort over the batch": (6, 6, lambda h: jnp.sort(h, axis=0), {"a": 6}),
    "cumsum over the batch": (6, 6, lambda h: jnp.cumsum(h, axis=0), {"a": 6}),
    "top of the batch": (6, 6, lambda h: lax.top_k(h.T, 2)[0].T, {"a": 6}),
    "argmax over the batch": (6, 6, lambda h: h + h.argmax(0).astype(f32)[None], {"a": 6}),
    "where": (6, 6, lambda h: jnp.where(h > 0, h, 0.1 * h), {"a": 6}),
    "where with a constant": (6, 6, lambda h: jnp.where(h > 0, h, -1.0), {"a": 6}),
    "clamp": (6, 6, lambda h: jnp.clip(h, 0.1, 0.5), {"a": 6}),
    "relu6": (6, 6, jax.nn.relu6, {"a": 6}),
    "gelu": (6, 6, jax.nn.gelu, {"a": 6}),
    "silu": (6, 6, jax.nn.silu, {"a": 6}),
    "exp": (6, 6, jnp.exp, {"a": 6}),
    "nested jit": (6, 6, twice, {"a": 6}),
    "barrier": (6, 6, lambda h: lax.optimization_barrier((h, h * 2))[1], {"a": 6}),
    "einsum": (6, 6, lambda h: jnp.einsum("bi,bi,ci->ci", h, h, h), {"a": 6}),
    "outer product": (
        6,
        36,
        lambda h: jnp.einsum("bi,bj->bij", h, h).reshape(2, 36),
        {"a": 6},
    ),
    "vmap": (6, 6, jax.vmap(lambda row: jnp.tanh(row) * row.sum()), {"a": 6}),
    "mean over a mapped axis": (
        6,
        6,
        jax.vmap(lambda row: row - lax.pmean(jnp.tanh(row), "rows"), axis_name="rows"),
        {"a": 6},
    ),
    "batched product": (6, 6, lambda h: jnp.einsum("bi,ci->bi", h, h), {"a": 6}),
    "gather of rows": (6, 6, lambda h: h[jnp.array([1, 0])], {"a": 6}),
    "dynamic slice of rows": (
        6,
        6,
        lambda h: jnp.concatenate([lax.dynamic_slice_in_dim(h, jnp.int32(i), 1) for i in (1, 0)]),
        {"a": 6},
    ),
    "dynamic update of rows": (
        6,
        6,
        lambda h: lax.dynamic_update_slice(jnp.zeros((2, 6)), h[:1], (jnp.int32(1), jnp.int32(0))),
        {"a": 6},
    ),
    "update of a cache": (
        6,
        6,
        lambda h: lax.dynamic_update_slice(jnp.ones((2, 6)), h, (jnp.int32(0), jnp.int32(0))),
        {"a": 6},
    ),
    "attention": (12, 4, attention_of_itself, {"a": 8}),
    "scan, carried": (6, 6, in_scan, {"a": 6}),
    "scan, collected": (6, 6, scanned_out, {"a": 6}),
    "scan over rows": (6, 6, lambda h: lax.map(jnp.tanh, h), {"a": 6}),
    "associative scan of rows": (6, 6, lambda h: lax.associative_scan(jnp.add, h), {"a": 6}),
    "cond": (6, 6, in_cond, {"a": 6}),
    "switch": (6, 6, in_switch, {"a": 6}),
    "remat": (6, 6, jax.checkpoint(lambda h: jnp.sin(jnp.sin(h))), {"a": 6}),
    "stopped gradient": (6, 6, lambda h: lax.stop_gradient(h) * h, {"a": 6}),
    "gradient inside": (6, 6, jax.grad(lambda h: (h * jnp.tanh(h)).sum()), {"a": 6}),
    "special functions": (
        6,
        6,
        lambda h: jax.scipy.special.betainc(
            jnp.full_like(h, 2.0), jnp.full_like(h, 3.0), jax.nn.sigmoid(h)
        ),
        {"a": 6},
    ),
    "logarithm of what is not zero": (6, 6, lambda h: jnp.log2(1 + jnp.exp2(h)), {"a": 6}),
    "complex numbers": (6, 6, lambda h: jnp.real(lax.complex(h, h) * (1 + 2j)), {"a": 6}),
    "one hot": (6, 6, lambda h: h * jax.nn.one_hot(jnp.array([1, 0]), 6), {"a": 6}),
    "lower triangle": (6, 6, lambda h: h @ jnp.tril(jnp.ones((6, 6))), {"a": 6, "z": 6}),
}


@pytest.mark.parametrize("name", REMOVABLE)
def test_channels_are_followed(name):
    n, m, body, expected = REMOVABLE[name]
    check(between(body), {"a": (3, n), "z": (m, 2)}, normal(2, 3), expected=expected)


WITHOUT_DERIVATIVE = {
    "composite": lax.composite(lambda h: jnp.tanh(h) * 2, "twice.tanh"),
    "extremes over a mapped axis": jax.vmap(
        lambda row: lax.pmax(row, "rows") - lax.pmin(row, "rows"), axis_name="rows"
    ),
    "rounding": lambda h: jnp.round(h * 4).astype(jnp.int32).astype(f32),
    "bits": lambda h: lax.bitcast_convert_type(lax.bitcast_convert_type(h, jnp.int32) | 1, f32),
}


@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
def test_channels_are_followed_where_jax_has_no_derivative(name):
    apply, shapes = between(WITHOUT_DERIVATIVE[name]), {"a": (3, 6), "z": (6, 2)}
    check(apply, shapes, normal(2, 3), expected={"a": 6}, gradients=False)


def rfft(h):
    return jnp.real(jnp.fft.fft(h))


def in_while(h):
    return lax.while_loop(lambda c: jnp.cumsum(c, axis=1).sum() > 1e3, lambda c: c / 2, h)


FIXED = {
    # name: (n, m, body, part of the reason)
    "sum of positions": (
        6,
        1,
        lambda h: (h + jnp.arange(6, dtype=f32)[None]).sum(1, keepdims=True),
        "not zero where it is masked, in reduce_sum",
    ),
    "max of positions": (
        6,
        1,
        lambda h: (h + jnp.arange(6, dtype=f32)[None]).max(1, keepdims=True),
        "not zero where it is masked, in reduce_max",
    ),
    "argmax": (6, 6, lambda h: h * h.argmax(1, keepdims=True).astype(f32), "in argmax"),
    "cumsum": (6, 6, lambda h: jnp.cumsum(h, axis=1), "depend on each other, in cumsum"),
    "sort": (6, 6, lambda h: jnp.sort(h, axis=1), "depend on each other, in sort"),
    "argsort": (6, 6, lambda h: h * jnp.argsort(h, axis=1).astype(f32), "in sort"),
    "top_k": (6, 2, lambda h: lax.top_k(h, 2)[0], "depend on each other, in top_k"),
    "take": (6, 3, lambda h: h[:, jnp.array([0, 2, 1])], "looked up by index, in gather"),
    "dynamic slice": (
        6,
        3,
        lambda h: lax.dynamic_slice_in_dim(h, jnp.int32(1), 3, 1),
        "looked up by index, in dynamic_slice",
    ),
    "dynamic update": (
        6,
        8,
        lambda h: lax.dynamic_update_slice(jnp.zeros((2, 8)), h, (jnp.int32(0), jnp.int32(1))),
        "looked up by index, in dynamic_update_slice",
    ),
    "scatter": (
        6,
        6,
        lambda h: jnp.zeros((2, 6)).at[:, jnp.arange(6)].set(h),
        "looked up by index, in scatter",
    ),
    "padding inside": (
        6,
        11,
        lambda h: lax.pad(h, 0.0, ((0, 0, 0), (0, 0, 1))),
        "padded between its positions, in pad",
    ),
    "unstack": (6, 6, lambda h: jnp.stack(jnp.unstack(h, axis=1), 1), "it is"),
    "while": (6, 6, in_while, "depend on each other, in cumsum"),
    "fft": (6, 6, rfft, "it is transformed, in fft"),
    "cholesky": (
        6,
        6,
        lambda h: h @ lax.linalg.cholesky(h.T @ h + jnp.eye(6)),
        "not followed through, in cholesky",
    ),
    "callback": (
        6,
        6,
        lambda h: jax.pure_callback(lambda h: np.asarray(h), jax.ShapeDtypeStruct((2, 6), f32), h),
        "not followed through, in pure_callback",
    ),
    "scan over channels": (6, 6, lambda h: lax.map(jnp.tanh, h.T).T, "it is scanned over, in scan"),
    "extremes over mapped channels": (
        6,
        6,
        jax.vmap(
            lambda column: column - lax.pmax(column, "c"), axis_name="c", in_axes=1, out_axes=1
        ),
        "it is reduced over, in pmax",
    ),
    "a single one": (1, 1, lambda h: h, ""),
    "first alone": (6, 1, lambda h: h[:, :1], ""),
    "column of one": (6, 2, lambda h: jnp.stack([h[:, 0], h[:, 1]], 1), "axis of size one"),
}


@pytest.mark.parametrize("name", FIXED)
def test_channels_are_fixed_with_the_reason(name):
    n, m, body, reason = FIXED[name]
    shapes = {"a": (3, n), "z": (m, 2)}
    groups = check_groups(between(body), shapes, normal(2, 3))
    assert removable(groups, "a", 1) == 0, str(groups)
    assert reason in reasons(groups, "a", 1)


def check_groups(apply, shapes, *inputs):
    return jp.structured.channel_groups(apply, params_of(shapes), *inputs)


# Products with fixed parts of a channel.


def test_fused_heads_are_followed_through_attention():
    def apply(p, x):
        q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(2, 5, 3, 2, 4), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0, axis=-1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 5, 8) @ p["out"]

    expected = {"qkv:1": 2, "qkv:1#2": 4}
    shapes = {"qkv": (3, 24), "out": (8, 3)}
    check(apply, shapes, normal(2, 5, 3), expected=expected)


def test_separate_heads_have_features_of_their_own():
    def apply(p, x):
        q, k, v = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0, axis=-1)
        attended = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return jnp.einsum("bqhd,hdc->bqc", attended, p["out"])

    shapes = {**dict.fromkeys("qkv", (3, 2, 4)), "out": (2, 4, 3)}
    groups = check(
        apply, shapes, normal(2, 5, 3), expected={"k:1": 2, "k:2": 4, "v": 4}, export=True
    )
    assert [m.path for m in groups["k:1"].members] == ["k", "q", "v", "out"]


def test_grouped_queries_share_keys():
    def apply(p, x):
        q = jnp.einsum("btc,ckgd->btkgd", x, p["q"])  # two heads of queries for each of keys
        k = jnp.einsum("btc,ckd->btkd", x, p["k"])
        weights = jax.nn.softmax(jnp.einsum("bqkgd,bskd->bkgqs", q, k), axis=-1)
        return jnp.einsum("bkgqs,bskd->bqkgd", weights, k).reshape(2, 5, 24) @ p["out"]

    shapes = {"q": (3, 3, 2, 4), "k": (3, 3, 4), "out": (24, 3)}
    check(apply, shapes, normal(2, 5, 3), expected={"k:1": 3, "k:2": 4, "q": 2})


def test_queries_and_keys_that_were_rotated_keep_their_width():
    def rotate(x):
        angle = jnp.arange(5, dtype=f32)[:, None] / 10.0 ** jnp.arange(2, dtype=f32)[None]
        cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
        cos, sin = (jnp.broadcast_to(y, (2, 5, 3, 2)) for y in (cos, sin))
        a, b = x[..., :2], x[..., 2:]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def apply(p, x):
        q, k, v = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)), axis=-1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 5, 12) @ p["out"]

    shapes = {**dict.fromkeys("qkv", (3, 3, 4)), "out": (12, 3)}
    # Pairs of features of queries and keys go together.
    check(apply, shapes, normal(2, 5, 3), expected={"k:1": 3, "k:2": 2, "v": 4})


def test_a_cache_of_keys_shrinks_inside():
    def apply(p, x):
        def step(cache, row):
            t, keys = cache
            keys = lax.dynamic_update_slice(keys, (row @ p["k"])[None], (t, jnp.int32(0)))
            return (t + 1, keys), jnp.tanh(keys @ (row @ p["q"])) @ keys

        start = (jnp.int32(0), jnp.zeros((5, 6)))
        return lax.scan(step, start, x)[1] @ p["out"]

    shapes = {"q": (3, 6), "k": (3, 6), "out": (6, 3)}
    check(apply, shapes, normal(5, 3), expected={"k": 6})


def test_flattened_images_have_channels():
    def apply(p, x):
        h = lax.conv_general_dilated(
            x, p["c"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return h.reshape(2, -1) @ p["d"]

    groups = check(apply, {"c": (3, 3, 3, 4), "d": (64, 2)}, normal(2, 4, 4, 3), expected={"c": 4})
    assert removable(groups, "d", 0) == 64
    assert "it is an axis of an image" not in reasons(groups, "d", 0)


def test_embeddings_lose_features_and_keep_rows():
    def apply(p, tokens):
        h = p["e"][tokens] + p["position"][jnp.arange(5)][None]
        return jnp.tanh(h) @ p["e"].T  # tied

    groups = check(
        apply, {"e": (7, 6), "position": (9, 6)}, jnp.arange(10).reshape(2, 5) % 7,
        expected={"e": 6},
    )  # fmt: skip
    assert "looked up by index" in reasons(groups, "e", 0)
    assert "looked up by index" in reasons(groups, "position", 0)
    assert [m.role for m in groups["e"].members] == ["out", "out"]


def test_lookups_that_are_mapped_over_channels():
    table = np.arange(18, dtype=np.float32).reshape(6, 3)

    def apply(p, x):
        looked_up = jax.vmap(lambda row, i: row[i])(table, jnp.arange(6) % 3)
        return (x @ p["a"] * looked_up[None]) @ p["z"]

    params = params_of({"a": (3, 6), "z": (6, 2)})
    check_shrunk(apply, params, (normal(2, 3),), 0.5)


def test_lookups_that_are_mapped_over_channels_of_parameters():
    def apply(p, x):
        looked_up = jnp.take_along_axis(p["t"], jnp.argmax(p["t"], axis=1)[:, None], axis=1)
        return (x @ p["a"] * looked_up[:, 0][None]) @ p["z"]

    params = params_of({"a": (3, 6), "t": (6, 3), "z": (6, 2)})
    check_shrunk(apply, params, (normal(2, 3),), 0.5)


# Convolutions and windows.


def conv(x, kernel, **options):
    settings = {"window_strides": (1,), "padding": "SAME", **options}
    return lax.conv_general_dilated(
        x, kernel, **settings, dimension_numbers=("NWC", "WIO", "NWC")
    )  # fmt: skip


def pooled(kind):
    start, f = {"max": (-jnp.inf, lax.max), "sum": (0.0, lax.add), "min": (jnp.inf, lax.min)}[kind]
    return lambda h: lax.reduce_window(h, start, f, (1, 2, 1), (1, 2, 1), "VALID")


# Between two convolutions, both of width 3: [2, 8, n] -> [2, any, m].
CONVS = {
    "plain": (4, 4, lambda h, p: h, {}, {"a": 4}),
    "bias": (4, 4, lambda h, p: h + p["b"], {"b": (1, 1, 4)}, {"a": 4}),
    "max pooling": (4, 4, lambda h, p: pooled("max")(h), {}, {"a": 4}),
    "min pooling": (4, 4, lambda h, p: pooled("min")(h), {}, {"a": 4}),
    "average pooling": (4, 4, lambda h, p: pooled("sum")(h) / 2.0, {}, {"a": 4}),
    "global pooling": (4, 4, lambda h, p: h.mean(1, keepdims=True), {}, {"a": 4}),
    "running sum": (4, 4, lambda h, p: jnp.cumsum(h, axis=1), {}, {"a": 4}),
    "strides": (4, 4, lambda h, p: conv(h, p["b"], window_strides=(2,)), {"b": (3, 4, 4)},
                {"a": 4, "b": 4}),
    "dilated": (4, 4, lambda h, p: conv(h, p["b"], rhs_dilation=(2,)), {"b": (3, 4, 4)},
                {"a": 4, "b": 4}),
    "transposed": (4, 4, lambda h, p: conv(h, p["b"], lhs_dilation=(2,), padding=[(2, 2)]),
                   {"b": (3, 4, 4)}, {"a": 4, "b": 4}),
    "conv_transpose": (4, 4, lambda h, p: lax.conv_transpose(h, p["b"], (2,), "SAME"),
                       {"b": (3, 4, 4)}, {"a": 4, "b": 4}),
    "depthwise": (4, 4, lambda h, p: conv(h, p["b"], feature_group_count=4), {"b": (3, 1, 4)},
                  {"a": 4}),
    # Channels with all their outputs, and every second output.
    "depthwise, multiplied": (4, 8, lambda h, p: conv(h, p["b"], feature_group_count=4),
                              {"b": (3, 1, 8)}, {"a": 4, "b": 2}),
    # Whole groups; inputs of every group; outputs of every group.
    "grouped": (6, 9, lambda h, p: conv(h, p["b"], feature_group_count=3), {"b": (3, 2, 9)},
                {"a:2": 3, "a:2#2": 2, "b": 3}),
    "grouped, shuffled, grouped": (
        6,
        6,
        lambda h, p: conv(
            conv(h, p["b"], feature_group_count=3).reshape(2, 8, 3, 2).swapaxes(2, 3)
            .reshape(2, 8, 6), p["c"], feature_group_count=2),
        {"b": (3, 2, 6), "c": (3, 3, 6)},
        {"a:2": 3, "a:2#2": 2, "b": 2, "c": 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVS)
def test_channels_between_convolutions(name):
    n, m, body, shapes, expected = CONVS[name]
    shapes = {"a": (3, 3, n), **shapes, "z": (3, m, 2)}
    groups = check(
        lambda p, x: conv(body(conv(x, p["a"]), p), p["z"]), shapes, normal(2, 8, 3),
        expected=expected,
    )  # fmt: skip
    assert reasons(groups, "a", 0) == "the convolution moves along it, in conv_general_dilated"


def test_axes_of_kernels_are_those_that_the_convolution_names():
    def apply(p, x):
        for name in "ab":
            x = lax.conv_general_dilated(
                x, p[name], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
            )
        return x

    groups = check(
        apply, {"a": (4, 3, 3, 3), "b": (2, 4, 3, 3)}, normal(2, 3, 4, 4), expected={"a": 4}
    )
    assert [(m.path, m.axis, m.role) for m in groups["a"].members] == [
        ("a", 0, "out"),
        ("b", 1, "in"),
    ]


def test_a_batch_in_groups_stays():
    def apply(p, x):
        h = conv(conv(x, p["a"]), p["b"], batch_group_count=2)
        return conv(h, p["z"])

    groups = check_groups(apply, {"a": (3, 3, 4), "b": (3, 4, 6), "z": (3, 6, 2)}, normal(2, 8, 3))
    assert len(groups) == 0
    assert "the convolution groups its batch" in reasons(groups, "a", 2)
    assert "the convolution groups its batch" in reasons(groups, "b", 2)


# Derivatives that somebody wrote.


def test_the_gradient_of_relu_at_zero_stays_zero():
    def apply(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["z"]

    params = {"a": jnp.ones((2, 3)), "z": jnp.ones((3, 1))}
    groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 2)))
    masks = jp.structured.masks(groups, [np.array([True, False, True])])
    small_apply, small = jp.structured.shrink(apply, params, masks, jnp.ones((1, 2)))
    slope = jax.grad(lambda x: small_apply(small, x).sum())(jnp.array([[1.0, -1.0]]))
    np.testing.assert_array_equal(slope, jnp.zeros((1, 2)))


def test_a_custom_jvp_that_is_no_derivative_is_kept():
    @jax.custom_jvp
    def straight_through(h):
        return jnp.round(h)

    straight_through.defjvps(lambda t, y, h: t * 3.0)
    body = between(lambda h: straight_through(h))
    check(body, {"a": (3, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6})
    params = params_of({"a": (3, 6), "z": (6, 2)})
    small_apply, small = shrunk_by_half(body, params, normal(2, 3))
    assert np.abs(jax.grad(lambda x: small_apply(small, x).sum())(normal(2, 3))).max() > 0
    pushed = jax.jvp(partial(small_apply, small), (normal(2, 3),), (normal(2, 3),))[1]
    np.testing.assert_allclose(pushed, 3 * normal(2, 3) @ small["a"] @ small["z"], rtol=1e-5)


def shrunk_by_half(apply, params, *inputs):
    groups = jp.structured.channel_groups(apply, params, *inputs)
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    return jp.structured.shrink(apply, params, masks, *inputs)


def test_a_custom_vjp_that_is_no_derivative_is_kept():
    @jax.custom_vjp
    def clipped(h, scale):
        return h * scale

    def forward(h, scale):
        return clipped(h, scale), (h, scale)

    def backward(saved, slope):
        h, scale = saved
        return 5.0 * slope + h, slope * h * 2.0 + scale

    clipped.defvjp(forward, backward)

    def apply(p, x):
        return clipped(x @ p["a"], jnp.broadcast_to(p["s"], (2, 6))) @ p["z"]

    shapes = {"a": (3, 6), "s": (1, 6), "z": (6, 2)}
    check(apply, shapes, normal(2, 3), expected={"a": 6})


def test_a_custom_vjp_whose_rule_mixes_channels_fixes_them():
    @jax.custom_vjp
    def mixing(h):
        return h * 2.0

    mixing.defvjp(lambda h: (mixing(h), ()), lambda _, t: (jnp.cumsum(t, axis=1),))
    groups = check_groups(between(mixing), {"a": (3, 6), "z": (6, 2)}, normal(2, 3))
    assert len(groups) == 0
    assert "depend on each other, in cumsum" in reasons(groups, "a", 1)


def test_a_custom_vjp_with_arguments_that_have_no_derivative():
    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def scaled(f, h, where):
        return jnp.where(where, f(h), 0.0)

    def forward(f, h, where):
        return scaled(f, h, where), where

    scaled.defvjp(forward, lambda f, where, t: (jnp.where(where, 7.0 * t, 0.0), None))

    def apply(p, x):
        return scaled(jnp.tanh, x @ p["a"], x @ p["a"] > 0) @ p["z"]

    check(apply, {"a": (3, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6})


def test_what_was_rematerialised_still_is():
    @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
    def block(p, h):
        return jnp.tanh(jax.nn.relu(h @ p["a"]) @ p["z"])

    params = params_of({"a": (3, 6), "z": (6, 2)})
    small_apply, small = shrunk_by_half(block, params, normal(2, 3))
    names = primitives(small_apply, small, normal(2, 3))
    assert any(name.startswith(("remat", "checkpoint")) for name in names)
    # Twice in the gradient: forward, and again on the way back.
    slope = jax.grad(lambda p: small_apply(p, normal(2, 3)).sum())
    assert primitives(slope, small).count("tanh") >= 1
    check(block, {"a": (3, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6})


# Loops and branches over parameters.


def test_layers_that_are_scanned_over():
    def apply(p, x):
        def layer(h, weights):
            up, down = weights
            return h + jnp.tanh(h @ up) @ down, h.mean()

        h, means = lax.scan(layer, x @ p["a"], (p["up"], p["down"]))
        return h @ p["z"], means

    shapes = {"a": (3, 6), "up": (4, 6, 8), "down": (4, 8, 6), "z": (6, 2)}
    groups = check(apply, shapes, normal(2, 3), expected={"a": 6, "up": 8})
    assert reasons(groups, "up", 0) == "it is scanned over, in scan"


def test_a_carry_that_starts_at_zero_and_does_not_stay_so():
    def apply(p, x):
        h = lax.scan(lambda h, _: (h @ p["w"] + jnp.cos(h), None), jnp.zeros((2, 6)), length=2)[0]
        return (h + x @ p["a"]).sum(1)

    groups = check_groups(apply, {"a": (3, 6), "w": (6, 6)}, normal(2, 3))
    assert len(groups) == 0
    assert "what is summed is not zero" in reasons(groups, "a", 1)


def test_branches_that_use_other_parameters():
    def apply(p, x):
        h = lax.cond(x[0, 0] > 0, lambda p, x: x @ p["a"], lambda p, x: jnp.tanh(x @ p["b"]), p, x)
        return h @ p["z"]

    groups = check(
        apply, {"a": (3, 6), "b": (3, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6},
        export=True,
    )  # fmt: skip
    assert [m.path for m in groups["a"].members] == ["a", "b", "z"]


def test_a_while_loop_that_does_not_touch_channels():
    def apply(p, x):
        n = lax.while_loop(lambda n: n < 3, lambda n: n + 1, jnp.int32(0))
        return (x @ p["a"] * n.astype(f32)) @ p["z"]

    check(apply, {"a": (3, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6}, gradients=False)


# Parameters of all kinds.


def test_weights_that_two_layers_share():
    def apply(p, x):
        return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["a"].T) @ p["a"] @ p["z"]

    check(apply, {"a": (3, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6})


def test_a_weight_whose_rows_are_its_columns():
    def apply(p, x):
        return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["w"]) @ p["w"] @ p["z"]

    groups = check(apply, {"a": (3, 6), "w": (6, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6})
    assert [(m.path, m.axis) for m in groups["a"].members] == [
        ("a", 1), ("w", 1), ("w", 0), ("z", 0),
    ]  # fmt: skip


def test_parameters_that_nothing_uses_are_fixed():
    def apply(p, x):
        return x @ p["a"] @ p["z"]

    shapes = {"a": (3, 6), "z": (6, 2), "idle": (6, 4)}
    groups = check(apply, shapes, normal(2, 3), expected={"a": 6})
    assert reasons(groups, "idle", 0) == reasons(groups, "idle", 1) == "no result depends on it"


def test_halves_of_the_precision():
    def apply(p, x):
        h = jax.nn.relu(x.astype(jnp.bfloat16) @ p["a"] + p["b"])
        return (h @ p["z"]).astype(f32)

    shapes = {k: jax.ShapeDtypeStruct(s, jnp.bfloat16)
              for k, s in {"a": (3, 6), "b": (1, 6), "z": (6, 2)}.items()}  # fmt: skip
    small = check_shrunk(apply, params_of(shapes), (normal(2, 3),), 0.5, rtol=2e-2)
    assert small["a"].dtype == jnp.bfloat16


def test_integers_and_keys_beside_the_weights():
    def apply(p, x):
        h = x @ p["a"] * p["signs"].astype(f32)[None]
        noise = jax.random.normal(p["key"], (2, 6))
        return (h + noise + p["steps"].astype(f32)) @ p["z"]

    params = {
        **params_of({"a": (3, 6), "z": (6, 2)}),
        "signs": jnp.array([1, -1, 2, 1, -1, -2]),
        "steps": jnp.int32(4),
        "key": jax.random.key(5),
    }
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    assert sizes(groups) == {"a": 6}
    assert removable(groups, "signs", 0) == 6
    check_shrunk(apply, params, (normal(2, 3),), 0.5, groups=groups)


def test_random_numbers_are_those_of_the_full_shape():
    def apply(p, x, key):
        h = x @ p["a"]
        h = jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h / 0.5, 0.0)
        return h @ p["z"]

    shapes = {"a": (3, 6), "z": (6, 2)}
    check(apply, shapes, normal(2, 3), jax.random.key(3), expected={"a": 6})
    check(apply, shapes, normal(2, 3), jax.random.PRNGKey(3), expected={"a": 6})


def test_weights_divided_by_a_norm_with_a_small_number_inside():
    def safely(p, x):
        norm = jnp.sqrt((p["a"] ** 2).sum(0, keepdims=True) + 1e-6)
        return x @ (p["a"] / norm) @ p["z"]

    check(safely, {"a": (3, 6), "z": (6, 2)}, normal(2, 3), expected={"a": 6})


def test_logarithms_of_channels_keep_them():
    groups = check_groups(
        between(lambda h: jnp.log(jnp.abs(h))), {"a": (3, 6), "z": (6, 2)}, normal(2, 3)
    )
    assert len(groups) == 0
    assert "not finite where it is masked, in log" in reasons(groups, "a", 1)


# State.


def test_new_statistics_shrink_and_other_results_do_not():
    def apply(p, x):
        h = x @ p["w"]["a"]
        mean = 0.9 * p["stats"]["mean"] + 0.1 * h.mean(0)
        return (h - mean[None]) @ p["w"]["z"], {"stats": {"mean": mean}}

    shapes = {"w": {"a": (3, 6), "z": (6, 2)}, "stats": {"mean": (6,)}}
    groups = check(apply, shapes, normal(2, 3), expected={"w/a": 6})
    assert removable(groups, "stats/mean", 0) == 6

    def elsewhere(p, x):
        out, state = apply(p, x)
        return out, {"mean of h": state["stats"]["mean"]}

    groups = check_groups(elsewhere, shapes, normal(2, 3))
    assert len(groups) == 0
    assert "it reaches axis 0 of the result '1/mean of h'" in reasons(groups, "w/a", 1)


def test_results_in_a_tuple_are_no_parameters_of_a_tuple():
    def apply(params, x):
        a, z = params
        return x @ a, jnp.cos(z)

    params = (normal(3, 3), normal(3, 2))
    assert len(jp.structured.channel_groups(apply, params, normal(3, 3))) == 0
