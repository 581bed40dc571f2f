"""MACs from the jaxpr, against published counts and counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

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

    with pytest.raises(ValueError, match=r"dot_general with 'w' stands inside a while loop"):
        flops(apply, {"w": shape(2, 2)}, shape(1, 2))
    with pytest.raises(ValueError, match="mask"):
        flops(lambda p, x: x @ p["w"], {"w": shape(2, 2)}, shape(1, 2), mask={"v": jnp.ones(2) > 0})
