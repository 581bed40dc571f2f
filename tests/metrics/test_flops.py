"""MACs from the jaxpr, against published counts and counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

import jaxprune as jp
from experiments import models

flops = jp.metrics.flops
TRANSPOSED = {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))}


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def conv(x, w, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    given = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": numbers}
    return jax.lax.conv_general_dilated(x, w, **{**given, **options})


@pytest.mark.parametrize(
    ("name", "image", "macs", "parameters"),
    [
        ("resnet56", (32, 32, 3), 125_485_696, 853_018),
        pytest.param("resnet110", (32, 32, 3), 252_887_680, 1_727_962, marks=pytest.mark.slow),
        ("lenet_300_100", (28, 28, 1), 784 * 300 + 300 * 100 + 100 * 10, 266_610),
    ],
)
def test_published_counts(name, image, macs, parameters):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = models.create(name, num_classes=10)
        x = shape(1, *image)
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
        found = flops(lambda v, x: model.apply(v, x, train=False), variables, x)
        four = flops(lambda v, x: model.apply(v, x, train=False), variables, shape(4, *image))
    assert found.macs == found.nonzero_macs == macs
    assert found.theoretical_speedup == 1.0
    assert four.macs == 4 * macs
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(sizes) == parameters
    assert all(layer.path.startswith("params/") for layer in found.layers)


@pytest.mark.parametrize(
    ("options", "kernel", "macs"),
    [
        ({}, (3, 3, 4, 6), 8 * 8 * 3 * 3 * 4 * 6),
        ({"window_strides": (2, 2)}, (3, 3, 4, 6), 4 * 4 * 3 * 3 * 4 * 6),
        ({"padding": "VALID"}, (3, 3, 4, 6), 6 * 6 * 3 * 3 * 4 * 6),
        ({"feature_group_count": 2}, (3, 3, 2, 6), 8 * 8 * 3 * 3 * 2 * 6),
        ({"feature_group_count": 4}, (3, 3, 1, 4), 8 * 8 * 3 * 3 * 4),
        ({"rhs_dilation": (2, 2)}, (3, 3, 4, 6), 8 * 8 * 3 * 3 * 4 * 6),
        (
            {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))},
            (2, 2, 4, 6),
            8 * 8 * 2 * 2 * 4 * 6,
        ),
    ],
)
def test_convolutions(options, kernel, macs):
    found = flops(lambda w, x: conv(x, w, **options), shape(*kernel), shape(1, 8, 8, 4))
    assert found.macs == macs


def test_products():
    # An attention: two products of activations, and one with a kernel of rank three.
    def apply(params, x):
        q = jnp.einsum("btd,dhk->bthk", x, params["q"])
        weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, q))
        return jnp.einsum("bhts,bshk->bthk", weights, q)

    found = flops(apply, {"q": shape(8, 2, 4)}, shape(3, 5, 8))
    layers = {layer.path: layer.macs for layer in found.layers}
    assert layers == {"q": 3 * 5 * 8 * 8, "": 2 * 3 * 2 * 5 * 5 * 4}


def test_masks_and_zeros():
    def apply(params, x):
        return conv(x, params["conv"]).reshape(2, -1) @ params["dense"]["kernel"]

    params = {
        "conv": jnp.ones((3, 3, 1, 4)),
        "dense": {"kernel": jnp.ones((64, 3)), "bias": jnp.ones(3)},
    }
    scores = {"conv": jnp.arange(36.0).reshape(3, 3, 1, 4), "dense": {"kernel": None, "bias": None}}
    mask = jp.masks.make(scores, 0.75)
    x = shape(2, 4, 4, 1)
    masked = flops(apply, params, x, mask=mask)
    assert masked.macs == 2 * (16 * 36 + 64 * 3)
    assert masked.nonzero_macs == 2 * (16 * 9 + 64 * 3)
    assert masked.layers[0] == ("conv", 2 * 16 * 36, 2 * 16 * 9)
    pruned = jp.apply_mask(params, mask)
    assert flops(apply, pruned, x) == masked
    shapes = jax.tree.map(lambda p: shape(*p.shape), params)
    assert flops(apply, shapes, x, mask=mask) == masked
    assert flops(apply, shapes, x).nonzero_macs == masked.macs
    assert masked.theoretical_speedup == masked.macs / masked.nonzero_macs
    nothing = jax.tree.map(jnp.zeros_like, params)
    assert flops(apply, nothing, x).theoretical_speedup == float("inf")


def test_parts_of_a_parameter_and_loops():
    def apply(params, x):
        a, b = jnp.split(x @ params["both"], 2, axis=-1)
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), a + b, params["stacked"])
        return jax.checkpoint(lambda x: x @ params["stacked"][0])(x)

    params = {"both": jnp.ones((4, 8)), "stacked": jnp.ones((5, 4, 4)).at[:, 0].set(0)}
    found = {layer.path: layer for layer in flops(apply, params, shape(1, 4)).layers}
    assert found["both"].macs == 32
    assert found["stacked"].macs == 6 * 16
    assert found["stacked"].nonzero_macs == 6 * 12


def test_frameworks_alike():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(5)(nn.relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))

    net = Net()
    variables = jax.eval_shape(net.init, jax.random.key(0), shape(1, 6, 6, 2))
    found = flops(net.apply, variables, shape(1, 6, 6, 2))
    assert [layer.macs for layer in found.layers] == [36 * 9 * 2 * 4, 20]


def test_what_cannot_be_counted():
    def apply(params, x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ params["w"], x)

    with pytest.raises(
        ValueError, match=r"dot_general with 'w' at .*test_flops.py:\d+.* inside a while"
    ):
        flops(apply, {"w": shape(2, 2)}, shape(1, 2))
    with pytest.raises(ValueError, match="mask"):
        flops(lambda p, x: x @ p["w"], {"w": shape(2, 2)}, shape(1, 2), mask={"v": jnp.ones(2) > 0})


def test_a_layer_that_is_used_twice_counts_twice():
    tied = jnp.ones((4, 4)).at[0].set(0)
    found = flops(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, {"w": tied}, shape(3, 4))
    assert found.layers == (("w", 2 * 3 * 16, 2 * 3 * 12),)


def ragged(params, x, sizes):
    return jax.lax.ragged_dot(x, params["w"], sizes)


def test_ragged_products():
    sizes = jax.ShapeDtypeStruct((3,), jnp.int32)
    found = flops(ragged, {"w": shape(3, 4, 5)}, shape(6, 4), sizes)
    assert found.layers == (("w", 6 * 4 * 5, 6 * 4 * 5),)
    # The groups are data: on average each row meets what is left of all of them.
    w = np.ones((3, 4, 5), np.float32)
    w[0] = 0
    w[1, 0] = 0
    assert flops(ragged, {"w": w}, shape(6, 4), sizes).nonzero_macs == 6 * 35 / 3
    # The groups are constants: each counts its own rows, and rows of no group nothing.
    fixed = np.array([1, 2, 2], np.int32)
    for params, mask in (({"w": w}, None), ({"w": shape(3, 4, 5)}, {"w": w != 0})):
        found = flops(lambda p, x: ragged(p, x, jnp.asarray(fixed)), params, shape(6, 4), mask=mask)
        assert found.layers == (("w", 5 * 20, 1 * 0 + 2 * 15 + 2 * 20),)
    abstract = flops(
        lambda p, x: ragged(p, x, jnp.asarray(fixed)), {"w": shape(3, 4, 5)}, shape(6, 4)
    )
    assert abstract.nonzero_macs == abstract.macs == 100


def test_ragged_products_of_another_kind():
    # vmap, and the weight's gradient: ragged along what is summed over.
    sizes = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    many = jax.vmap(ragged)
    assert flops(many, {"w": shape(2, 3, 4, 5)}, shape(2, 6, 4), sizes).macs == 2 * 6 * 4 * 5

    def gradient(params, x, sizes):
        return jax.grad(lambda p: ragged(p, x, sizes).sum())(params)

    one = jax.ShapeDtypeStruct((3,), jnp.int32)
    found = flops(gradient, {"w": shape(3, 4, 5)}, shape(6, 4), one)
    assert found.macs == 2 * 6 * 4 * 5  # forwards, and backwards
    # A permuted weight is not that of the groups by its place.
    w = jnp.ones((4, 3, 5)).at[:, 0].set(0)

    def moved(params, x):
        return ragged({"w": params["w"].transpose(1, 0, 2)}, x, jnp.array([4, 1, 1], jnp.int32))

    assert flops(moved, {"w": w}, shape(6, 4)).nonzero_macs == 6 * 20 * 2 // 3


def test_complex_products_are_four_real_ones():
    def c(*dims):
        return jax.ShapeDtypeStruct(dims, jnp.complex64)

    found = flops(lambda w, x: x @ w["w"], {"w": c(4, 5)}, c(3, 4))
    assert found.layers == (("w", 4 * 3 * 4 * 5, 4 * 3 * 4 * 5),)
    kernel = jnp.ones((3, 3, 2, 6), jnp.complex64).at[0].set(0)
    found = flops(lambda w, x: conv(x, jnp.conj(w["w"]) * 2j), {"w": kernel}, c(1, 8, 8, 2))
    assert found.layers == (("w", 4 * 64 * 9 * 12, 4 * 64 * 6 * 12),)
    # A real weight among complex ones is cast before it is multiplied.
    found = flops(lambda w, x: x @ w["w"].astype(jnp.complex64), {"w": jnp.zeros((4, 5))}, c(3, 4))
    assert found.layers == (("w", 4 * 3 * 4 * 5, 0),)


def test_transforms_count_nothing():
    found = flops(
        lambda w, x: jnp.fft.ifft(jnp.fft.fft(x) * w[None].astype("complex64")),
        shape(8),
        shape(2, 8),
    )
    assert found.macs == 0


def counter(test, start, step):
    def apply(params, x):
        def body(carry):
            i, x = carry
            return step(i), jnp.tanh(x @ params["w"])

        return jax.lax.while_loop(lambda carry: test(carry[0]), body, (start(), x))[1]

    return apply


@pytest.mark.parametrize(
    ("test", "start", "step", "expected"),
    [
        (lambda i: i < 10, lambda: 0, lambda i: i + 1, 10),
        (lambda i: i < 10, lambda: jnp.int32(3), lambda i: 2 + i, 4),
        (lambda i: i <= 10, lambda: jnp.zeros((), jnp.int32), lambda i: i + 3, 4),
        (lambda i: i > 0, lambda: jnp.int32(4) * 2, lambda i: i - 3, 3),
        (lambda i: i >= 0, lambda: 8, lambda i: i - 4, 3),
        (lambda i: i != 6, lambda: 0, lambda i: i + 2, 3),
        (lambda i: i < 0, lambda: 5, lambda i: i + 1, 0),
        (lambda i: i < 2**31 - 1, lambda: 0, lambda i: i + 1, 2**31 - 1),
    ],
)
def test_whiles_with_a_counter(test, start, step, expected):
    found = flops(counter(test, start, step), {"w": shape(2, 2)}, shape(3, 2))
    assert found.macs == expected * 12
    if expected < 100:  # what a run of Python counts
        i, n = int(start()), 0
        while test(i):
            i, n = int(step(i)), n + 1
        assert n == expected


@pytest.mark.parametrize(
    ("test", "start", "step"),
    [
        (lambda i: i < 10, lambda: 0, lambda i: i - 1),
        (lambda i: i != 5, lambda: 0, lambda i: i + 2),
        (lambda i: i < 2**31 - 1, lambda: 0, lambda i: i + 2),
        (lambda i: i < 10, lambda: 1, lambda i: i * 2),
        (lambda i: i < 10, lambda: 0.0, lambda i: i + 1),
        (lambda i: (i < 10) & (i > -5), lambda: 0, lambda i: i + 1),
    ],
)
def test_whiles_that_nobody_counts(test, start, step):
    with pytest.raises(ValueError, match="inside a while loop"):
        flops(counter(test, start, step), {"w": shape(2, 2)}, shape(3, 2))


def test_loops_in_loops():
    def apply(params, x):
        def inner(_, x):
            return jnp.tanh(x @ params["w"])

        def outer(_, x):
            return jax.lax.fori_loop(0, jnp.int32(4), inner, x)

        return jax.lax.fori_loop(jnp.int32(1), jnp.int32(6), outer, x)

    assert flops(apply, {"w": shape(2, 2)}, shape(3, 2)).macs == 5 * 4 * 12
    with pytest.raises(ValueError, match="rounds is not known"):
        flops(
            lambda p, x, n: jax.lax.fori_loop(0, n, lambda _, x: apply(p, x), x),
            {"w": shape(2, 2)},
            shape(3, 2),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
    # Under vmap some go on while others have ended.
    with pytest.raises(ValueError, match=r"a while of several examples \(vmap\) .*test_flops.py"):
        flops(
            jax.vmap(
                lambda w, x, n: jax.lax.while_loop(
                    lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] @ w), (0, x)
                )[1],
                in_axes=(None, 0, 0),
            ),
            shape(2, 2),
            shape(3, 2, 2),
            jax.ShapeDtypeStruct((3,), jnp.int32),
        )


def multiplied(x_ref, w_ref, out_ref):
    out_ref[...] = jnp.dot(x_ref[...], w_ref[...])


def added(x_ref, w_ref, out_ref):
    out_ref[...] = x_ref[...] + w_ref[...]


def kernel_of(kernel):
    def apply(params, x):
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pl.pallas_call(kernel, out_shape=out, interpret=True)(x, params["w"])

    return apply


def called_back(params, x):
    return jax.pure_callback(lambda x, w: x @ w, x, x, params["w"])


def test_what_hides_products_is_named():
    params, x = {"w": shape(8, 8)}, shape(8, 8)
    with pytest.raises(ValueError, match=r"a pallas_call with 'w' at .*test_flops.py:\d+"):
        flops(kernel_of(multiplied), params, x)
    assert flops(kernel_of(added), params, x).macs == 0
    with pytest.raises(ValueError, match=r"a pure_callback with 'w' at .*test_flops.py:\d+"):
        flops(called_back, params, x)

    def both(params, x):
        return called_back(params, x) @ params["w"]

    with pytest.warns(UserWarning, match=r"a pure_callback .* counts nothing"):
        found = flops(both, params, x, on_uncounted="warn")
    assert found.macs == flops(both, params, x, on_uncounted="allow").macs == 8**3
    with pytest.raises(ValueError, match="on_uncounted is 'error', 'warn' or 'allow'; got 'no'"):
        flops(both, params, x, on_uncounted="no")


def test_what_hides_no_product_is_not_refused():
    def apply(params, x):
        x = jnp.linalg.solve(params["w"], x)
        x = jnp.sort(x) + jax.lax.reduce_window(x, 0.0, jax.lax.add, (2, 2), (1, 1), "SAME")
        return jnp.linalg.cholesky(x) + jax.lax.top_k(x, 1)[0] + x.at[0].add(1.0)

    with jax.numpy_rank_promotion("allow"):
        assert flops(apply, {"w": shape(4, 4)}, shape(4, 4)).macs == 0
