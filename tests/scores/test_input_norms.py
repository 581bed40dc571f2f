"""Input norms of whole networks, against explicit sums over patches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp


def _normal(seed, *shape):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def _params(model, x):
    """Random parameters of a Linen module. Nothing is compiled for them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda leaf: _normal(0, *leaf.shape), shapes)


def _column_norms(x):
    x = np.asarray(x, np.float64)
    return np.sqrt(np.sum(x.reshape(-1, x.shape[-1]) ** 2, axis=0))[:, None]


def _patch_norms(x, shape, *, strides=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0)), groups=1):
    """Of an HWIO kernel over NHWC inputs, one output position and channel after the other."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    height, width, n_in, n_out = shape
    rows = (x.shape[1] - dilation[0] * (height - 1) - 1) // strides[0] + 1
    columns = (x.shape[2] - dilation[1] * (width - 1) - 1) // strides[1] + 1
    total = np.zeros(shape)
    for h, w, i, o in np.ndindex(*shape):
        channel = o // (n_out // groups) * n_in + i
        for r, c in np.ndindex(rows, columns):
            row, column = r * strides[0] + h * dilation[0], c * strides[1] + w * dilation[1]
            total[h, w, i, o] += np.sum(x[:, row, column, channel] ** 2)
    return np.sqrt(total)


class MLP(nn.Module):
    dtype: jnp.dtype | None = None
    norm: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(5, dtype=self.dtype)(x))
        x = nn.LayerNorm()(x) if self.norm else x
        return nn.Dense(3, dtype=self.dtype)(x)


def test_linen_mlp_and_streaming():
    x = _normal(0, 12, 4)
    model = MLP()
    params = _params(model, x)

    def apply(params, x):
        return model.apply({"params": params}, x)

    norms = jp.scores.input_norms(apply, params, [x])

    @jax.jit
    def hidden_of(params, x):
        hidden = nn.relu(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None])
        return nn.LayerNorm().apply({"params": params["LayerNorm_0"]}, hidden)

    hidden = hidden_of(params, x)
    np.testing.assert_allclose(norms["Dense_0"]["kernel"], _column_norms(x), rtol=1e-5)
    np.testing.assert_allclose(norms["Dense_1"]["kernel"], _column_norms(hidden), rtol=1e-5)
    assert norms["Dense_0"]["bias"] is None
    assert norms["LayerNorm_0"]["scale"] is None

    streamed = jp.scores.input_norms(apply, params, (x[i : i + 5] for i in (0, 5, 10)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), norms, streamed)
    scores = jp.scores.wanda(params, norms)
    kernel = np.asarray(params["Dense_0"]["kernel"])
    np.testing.assert_allclose(
        scores["Dense_0"]["kernel"], np.abs(kernel) * _column_norms(x), rtol=1e-5
    )


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_bfloat16(param_dtype):
    x = _normal(0, 12, 4).astype(jnp.bfloat16)
    model = MLP(dtype=jnp.bfloat16, norm=False)
    params = _params(model, x)
    params = jax.tree.map(lambda w: w.astype(param_dtype), params)
    norms = jp.scores.input_norms(lambda p, x: model.apply({"params": p}, x), params, [x])
    assert norms["Dense_0"]["kernel"].dtype == jnp.float32
    exact = _column_norms(np.asarray(x.astype(jnp.float32)))
    np.testing.assert_allclose(norms["Dense_0"]["kernel"], exact, rtol=1e-5)
    assert norms["Dense_1"]["kernel"].shape == (5, 1)


@pytest.mark.parametrize(
    ("options", "explicit"),
    [
        ({"padding": "VALID"}, {}),
        # SAME with stride 2 pads (0, 1) on six rows and (1, 1) on seven columns.
        (
            {"padding": "SAME", "strides": (2, 2)},
            {"padding": ((0, 1), (1, 1)), "strides": (2, 2)},
        ),
        (
            {"padding": "SAME", "kernel_dilation": (2, 1)},
            {"padding": ((2, 2), (1, 1)), "dilation": (2, 1)},
        ),
        ({"padding": "VALID", "feature_group_count": 2}, {"groups": 2}),
        ({"padding": ((1, 0), (0, 2)), "feature_group_count": 4}, "depthwise"),
    ],
)
def test_linen_conv(options, explicit):
    if explicit == "depthwise":
        explicit = {"padding": ((1, 0), (0, 2)), "groups": 4}
    x = _normal(1, 2, 6, 7, 4)
    model = nn.Conv(8, (3, 3), **options)
    params = _params(model, x)
    norms = jp.scores.input_norms(lambda p, x: model.apply({"params": p}, x), params, [x])["kernel"]
    shape = params["kernel"].shape
    assert norms.shape == (shape if "groups" in explicit else (*shape[:3], 1))
    want = _patch_norms(x, shape, **explicit)
    np.testing.assert_allclose(np.broadcast_to(norms, shape), want, rtol=1e-5)


def _jacobian_norms(product, w, x):
    """The definition: how much every output of the product changes with every weight."""
    jacobian = np.asarray(jax.jit(jax.jacrev(product))(w, x), np.float64)
    outputs = jacobian.ndim - w.ndim
    return np.sqrt(np.sum(jacobian**2, axis=tuple(range(outputs))))


@pytest.mark.parametrize(
    ("w", "x", "options"),
    [
        ((4, 3, 3), (2, 3, 5), {"padding": [(2, 1)]}),
        ((4, 3, 3), (2, 3, 5), {"padding": [(-1, 2)], "rhs_dilation": (2,)}),
        ((4, 3, 3), (2, 3, 5), {"padding": [(1, 2)], "lhs_dilation": (3,)}),
        ((4, 1, 3), (2, 2, 5), {"padding": "SAME", "feature_group_count": 2}),
        ((4, 3, 3), (6, 3, 5), {"padding": "SAME", "batch_group_count": 2}),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_any_convolution_by_its_jacobian(w, x, options, turned):
    w, x = _normal(0, *w), _normal(1, *x)

    def product(w, x):
        operands = (w, x) if turned else (x, w)
        return jax.lax.conv_general_dilated(*operands, (2,), **options)

    if turned:
        w, x = x, w
    norms = jp.scores.input_norms(lambda p, x: product(p["w"], x), {"w": w}, [x])["w"]
    want = _jacobian_norms(product, w, x)
    np.testing.assert_allclose(np.broadcast_to(norms, w.shape), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("equation", "w", "x", "shape"),
    [
        ("bqd,dhk->bqhk", (3, 2, 4), (2, 5, 3), (3, 1, 1)),
        ("hkd,bqhk->bqd", (2, 4, 3), (2, 5, 2, 4), (2, 4, 1)),
        ("bgi,ogi->bgo", (3, 2, 4), (5, 2, 4), (1, 2, 4)),
        ("eci,eio->eco", (2, 4, 3), (2, 5, 4), (2, 4, 1)),
        ("oi,bi->bo", (3, 4), (2, 4), (1, 4)),
        ("abc,bca->", (3, 4, 2), (4, 2, 3), (3, 4, 2)),
    ],
)
def test_any_einsum_by_its_jacobian(equation, w, x, shape):
    first = equation.split(",")[0]
    weight_first = len(first) == len(w) and not equation.startswith(("bqd", "bgi", "eci"))
    w, x = _normal(0, *w), _normal(1, *x)

    def product(w, x):
        return jnp.einsum(equation, *((w, x) if weight_first else (x, w)))

    norms = jp.scores.input_norms(lambda p, x: product(p["w"], x), {"w": w}, [x])["w"]
    assert norms.shape == shape
    want = _jacobian_norms(product, w, x)
    np.testing.assert_allclose(np.broadcast_to(norms, w.shape), want, rtol=1e-5)


def test_stacked_models():
    w, x = _normal(0, 3, 4, 2), _normal(1, 3, 6, 4)
    apply = jax.vmap(lambda p, x: jnp.tanh(x @ p["w"]))
    norms = jp.scores.input_norms(apply, {"w": w}, [x])["w"]
    np.testing.assert_allclose(norms, np.stack([_column_norms(one) for one in x]), rtol=1e-5)


def test_values_at_the_border():
    def apply(p, x):
        return jax.lax.conv_general_dilated(x, p["w"], (1,), "SAME")

    x = jnp.array([[[1.0, 2.0, 4.0]]])  # NCH, kernel OIH
    norms = jp.scores.input_norms(apply, {"w": jnp.ones((2, 1, 3))}, [x])["w"]
    assert norms.shape == (1, 1, 3)
    # The first tap sees (0, 1, 2), the middle one (1, 2, 4), the last one (2, 4, 0).
    np.testing.assert_allclose(np.square(norms.ravel()), [5, 21, 20], rtol=1e-6)


def test_transposed_convolution():
    model = nn.ConvTranspose(3, (2, 2), strides=(2, 2))
    x = _normal(1, 2, 3, 3, 2)
    params = _params(model, x)
    norms = jp.scores.input_norms(lambda p, x: model.apply({"params": p}, x), params, [x])["kernel"]
    # Stride equals window: every tap multiplies every input exactly once.
    want = np.broadcast_to(_column_norms(x)[None, None], (2, 2, 2, 1))
    np.testing.assert_allclose(norms, want, rtol=1e-5)


def test_linen_attention():
    x = _normal(2, 2, 5, 6)
    model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)
    params = _params(model, x)

    @jax.jit
    def heads_of(params, x):
        _, state = model.apply(
            {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
        )
        inner = state["intermediates"]
        return nn.dot_product_attention(
            *(inner[name]["__call__"][0] for name in ("query", "key", "value"))
        )

    norms = jp.scores.input_norms(lambda p, x: model.apply({"params": p}, x), params, [x])
    for name in ("query", "key", "value"):
        assert norms[name]["kernel"].shape == (6, 1, 1)
        np.testing.assert_allclose(norms[name]["kernel"][..., 0], _column_norms(x), rtol=1e-5)
    heads = np.asarray(heads_of(params, x))
    want = _column_norms(heads.reshape(2, 5, 4)).reshape(2, 2, 1)
    np.testing.assert_allclose(norms["out"]["kernel"], want, rtol=1e-5)


def test_nnx_and_where():
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 2, rngs=nnx.Rngs(1))
    )
    graph, state = nnx.split(model)
    x = _normal(3, 7, 3)

    def apply(state, x):
        return nnx.merge(graph, state)(x)

    norms = jp.scores.input_norms(apply, state, [x])
    found = [leaf for leaf in jax.tree.leaves(norms) if leaf is not None]
    np.testing.assert_allclose(found[0], _column_norms(x), rtol=1e-5)
    np.testing.assert_allclose(found[1], _column_norms(nnx.relu(model.layers[0](x))), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jp.scores.wanda(state, norms)))
    only = jp.scores.input_norms(apply, state, [x], where=lambda path, leaf: leaf.shape == (3, 4))
    assert [leaf.shape for leaf in jax.tree.leaves(only)] == [(3, 1)]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(4)(x)), None


class Stack(nn.Module):
    remat: bool

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer) if self.remat else Layer
        scan = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan()(x, None)[0]


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers(remat):
    x = _normal(4, 6, 4)
    model = Stack(remat)
    params = _params(model, x)
    norms = jp.scores.input_norms(lambda p, x: model.apply({"params": p}, x), params, [x])
    kernel = jax.tree.leaves(norms)[0]
    assert kernel.shape == (3, 4, 1)
    dense = next(iter(params.values()))["Dense_0"]
    x = np.asarray(x)
    for i in range(3):
        np.testing.assert_allclose(kernel[i], _column_norms(x), rtol=1e-5)
        x = np.tanh(x @ np.asarray(dense["kernel"][i]) + np.asarray(dense["bias"][i]))


def test_recurrent_weights_add_up_over_time():
    cell = nn.RNN(nn.SimpleCell(4))
    x = _normal(5, 2, 6, 3)
    params = _params(cell, x)
    norms = jp.scores.input_norms(lambda p, x: cell.apply({"params": p}, x), params, [x])
    states = np.asarray(jax.jit(cell.apply)({"params": params}, x))
    np.testing.assert_allclose(norms["cell"]["i"]["kernel"], _column_norms(x), rtol=1e-5)
    # The last state is an output only, and the first one was zero.
    np.testing.assert_allclose(
        norms["cell"]["h"]["kernel"], _column_norms(states[:, :-1]), rtol=1e-5
    )


def test_a_missing_product_is_named():
    params = {"used": {"kernel": jnp.ones((2, 2))}, "unused": {"kernel": jnp.ones((2, 2))}}
    norms = jp.scores.input_norms(
        lambda p, x: x @ p["used"]["kernel"] + p["unused"]["kernel"], params, [jnp.ones((2, 2))]
    )
    assert norms["unused"]["kernel"] is None
    with pytest.raises(ValueError, match="nothing for the prunable leaf 'unused/kernel'"):
        jp.scores.wanda(params, norms)
    with pytest.raises(ValueError, match="`batches` is empty"):
        jp.scores.input_norms(lambda p, x: x, params, [])


def test_sharded_batches():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, params = _normal(6, 16, 4), {"w": _normal(7, 4, 3)}

    def apply(p, x):
        return x @ p["w"]

    norms = jp.scores.input_norms(apply, params, [jax.device_put(x, sharding)])
    np.testing.assert_allclose(norms["w"], _column_norms(x), rtol=1e-5)
