"""Models: parameter counts, shapes, types, the shortcut, batch normalisation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import ResNet, create, init
from experiments.models._resnet import shortcut


def counts(model, image_shape):
    """(all parameters, those of rank >= 2), from shapes alone."""
    params, _ = jax.eval_shape(lambda key: init(model, key, image_shape), jax.random.key(0))
    leaves = jax.tree.leaves(params)
    return (
        sum(math.prod(leaf.shape) for leaf in leaves),
        sum(math.prod(leaf.shape) for leaf in leaves if leaf.ndim >= 2),
    )


@pytest.mark.parametrize(
    ("name", "image_shape", "total", "prunable"),
    [
        ("lenet_300_100", (28, 28, 1), 266_610, 266_200),
        ("lenet5", (28, 28, 1), 61_706, 61_470),
        ("lenet5", (32, 32, 3), 62_006, 61_770),
        ("small_cnn", (8, 8, 1), 13_706, 13_584),
        ("resnet20", (32, 32, 3), 269_722, 268_336),
        ("resnet32", (32, 32, 3), 464_154, 461_872),
        ("resnet56", (32, 32, 3), 853_018, 848_944),
        ("resnet110", (32, 32, 3), 1_727_962, 1_719_856),
    ],
)
def test_parameter_counts(name, image_shape, total, prunable):
    assert counts(create(name, 10), image_shape) == (total, prunable)


# Deeper ResNets differ from resnet20 by a count that the test above checks.
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        ("lenet_300_100", (8, 8, 1)),
        ("lenet5", (28, 28, 1)),
        ("lenet5", (32, 32, 3)),
        ("small_cnn", (8, 8, 1)),
        ("small_cnn", (28, 28, 1)),
        ("small_cnn", (32, 32, 3)),
        ("resnet20", (8, 8, 1)),
        ("resnet20", (32, 32, 3)),
    ],
)
def test_types_and_shapes(name, dtype, image_shape):
    model = create(name, 7, dtype)

    def run(key):
        params, state = init(model, key, image_shape)
        images = jnp.zeros((2, *image_shape), dtype)
        logits, new = model.apply(
            {"params": params, **state}, images, train=True, mutable=list(state)
        )
        return (
            params,
            state,
            logits,
            dict(new),
            model.apply({"params": params, **state}, images, False),
        )

    params, state, logits, new, evaluated = jax.eval_shape(run, jax.random.key(0))
    assert logits.shape == evaluated.shape == (2, 7)
    assert logits.dtype == evaluated.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, state)))
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, new)
    assert all(jax.tree.leaves(same))
    assert list(state) == (["batch_stats"] if name.startswith("resnet") else [])


def test_bfloat16_computes_in_bfloat16_and_stays_close():
    params, _ = init(create("small_cnn", 10), jax.random.key(0), (8, 8, 1))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    full, half = jax.jit(
        lambda p: tuple(
            create("small_cnn", 10, dtype).apply({"params": p}, images, train=False)
            for dtype in (jnp.float32, jnp.bfloat16)
        )
    )(params)
    assert half.dtype == jnp.float32
    np.testing.assert_array_equal(half, half.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(half, full, atol=0.05)
    assert not np.array_equal(half, full)


@pytest.mark.parametrize(("width", "stride", "size"), [(8, 2, 6), (7, 2, 5), (4, 1, 6), (4, 2, 6)])
def test_shortcut_against_numpy(width, stride, size):
    x = np.random.default_rng(0).normal(size=(2, size, size, 4)).astype(np.float32)
    rows = range(0, size, stride)
    expected = np.zeros((2, len(rows), len(rows), width), np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(rows):
            for c in range(4):
                expected[:, i, j, (width - 4) // 2 + c] = x[:, row, column, c]
    np.testing.assert_array_equal(shortcut(jnp.asarray(x), width, stride), expected)


def numpy_conv3x3(x, kernel, stride):
    """Zero padding of one pixel on every side, as in the published networks."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    out = np.zeros((len(x), len(rows), len(columns), kernel.shape[-1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            patch = padded[:, row : row + 3, column : column + 3]
            out[:, i, j] = np.tensordot(patch, kernel, 3)
    return out


def test_resnet_against_numpy():
    model = ResNet(num_classes=3, blocks=1, widths=(2, 4))
    params, state = init(model, jax.random.key(0), (6, 6, 3))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    got = jax.jit(lambda v, x: model.apply(v, x, train=False))({"params": params, **state}, x)

    # Fresh running statistics are mean 0 and variance 1.
    def norm(y):
        return y / np.sqrt(1 + 1e-5)

    def block(y, p, stride):
        z = np.maximum(norm(numpy_conv3x3(y, p["conv0"]["kernel"], stride)), 0)
        z = norm(numpy_conv3x3(z, p["conv1"]["kernel"], 1))
        return np.maximum(z + np.asarray(shortcut(jnp.asarray(y), z.shape[-1], stride)), 0)

    params = jax.tree.map(np.asarray, params)
    y = np.maximum(norm(numpy_conv3x3(x, params["conv_in"]["kernel"], 1)), 0)
    y = block(y, params["stage0_block0"], 1)
    y = block(y, params["stage1_block0"], 2)
    dense = params["dense_out"]
    expected = y.mean((1, 2)) @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_batch_statistics_have_momentum_and_are_shared_over_the_axis():
    x = jax.random.normal(jax.random.key(1), (8, 4, 4, 3)) * 3 + 1
    plain = ResNet(num_classes=3, blocks=1, widths=(2,))
    named = ResNet(num_classes=3, blocks=1, widths=(2,), axis_name="batch")
    params, state = init(plain, jax.random.key(0), (4, 4, 3))

    def run(model, images):
        return model.apply({"params": params, **state}, images, train=True, mutable=["batch_stats"])

    whole, new = jax.jit(lambda images: run(plain, images))(x)
    split, shared = jax.jit(jax.vmap(lambda part: run(named, part), axis_name="batch"))(
        x.reshape(2, 4, 4, 4, 3)
    )
    np.testing.assert_allclose(split.reshape(8, 3), whole, rtol=1e-4, atol=1e-5)
    for both, one in zip(jax.tree.leaves(shared), jax.tree.leaves(new), strict=True):
        np.testing.assert_allclose(both[0], one, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(both[0], both[1])
    features = numpy_conv3x3(np.asarray(x), np.asarray(params["conv_in"]["kernel"]), 1)
    np.testing.assert_allclose(
        new["batch_stats"]["norm_in"]["mean"], 0.1 * features.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
    )


def test_he_initialisation():
    model = ResNet(num_classes=3, blocks=1, widths=(64,))
    params, _ = init(model, jax.random.key(0), (2, 2, 3))
    kernel = params["stage0_block0"]["conv0"]["kernel"]
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    # Not truncated: 36,864 normal draws reach past 3.5 standard deviations.
    assert float(jnp.abs(kernel).max() / kernel.std()) > 3.5


def test_widths_are_a_field():
    assert counts(create("lenet_300_100", 10, widths=(5,)), (2, 2, 1))[0] == 25 + 60
    wide = counts(create("resnet20", 10, widths=(32, 64, 128)), (32, 32, 3))[1]
    assert wide == 4 * (268_336 - 432 - 640) + 2 * (432 + 640)


def test_errors_give_value_and_repair():
    with pytest.raises(ValueError, match=r"unknown model 'resnet65'; did you mean 'resnet56'\?"):
        create("resnet65", 10)
    with pytest.raises(
        ValueError, match=r"'vgg'\. Known: lenet_300_100, lenet5, small_cnn, resnet20"
    ):
        create("vgg", 10)
    with pytest.raises(ValueError, match=r"at least 12x12 pixels, got 8x8; .* take small_cnn"):
        counts(create("lenet5", 10), (8, 8, 1))
    with pytest.raises(ValueError, match="at least 4x4 pixels, got 3x9"):
        counts(create("small_cnn", 10), (3, 9, 1))
    with pytest.raises(ValueError, match="width 8 follows one of width 16"):
        counts(create("resnet20", 10, widths=(16, 8)), (8, 8, 3))
    with pytest.raises(TypeError, match="axis_name"):
        create("small_cnn", 10, axis_name="batch")
