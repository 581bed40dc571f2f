"""The larger models: counts, types, narrower twins, causality, errors."""

from functools import partial

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import (
    GPT,
    VGG16,
    DenseNet,
    ImageNetResNet,
    MobileNetV2,
    ResNet,
    ViT,
    WideResNet,
    create,
    make_loss_fn,
)
from jaxprune import default_where
from tests.experiments._shapes import count, image, macs, tokens, variables


@pytest.mark.parametrize(
    ("model", "x", "expected"),
    [
        (create("densenet40", 10), image(32), 1_019_722),
        (create("mobilenet_v2", 1000), image(224), 3_504_872),
        (create("wide_resnet28_10", 10), image(32), 36_479_194),
        (create("resnet18_cifar", 10), image(32), 11_173_962),
        (create("vgg16_bn_single", 10), image(32), 14_724_042),
        (create("vit_s16", 1000), image(224), 22_050_664),
        (GPT(50_257, max_length=1024, width=768, depth=12, heads=12), tokens(4), 124_439_808),
    ],
    ids=lambda value: type(value).__name__.lower(),
)
def test_parameter_counts(model, x, expected):
    assert count(variables(model, x)[0]) == expected


def by_hand(layers):
    """Of (height and width of the result, size of the kernel, channels in, channels out)."""
    return sum((side * size) ** 2 * before * after for side, size, before, after in layers)


def basic_blocks(stages, blocks, side, width):
    for number, after in enumerate(stages):
        side //= 1 if number == 0 else 2
        for _ in range(blocks):
            yield from [(side, 3, width, after), (side, 3, after, after)]
            if width != after:
                yield (side, 1, width, after)
            width = after


@pytest.mark.parametrize(
    ("name", "stem", "stages", "blocks", "stem_width"),
    [
        ("resnet18_cifar", 64, (64, 128, 256, 512), 2, 64),
        ("wide_resnet28_10", 16, (160, 320, 640), 4, 16),
    ],
)
def test_macs_of_networks_for_small_images(name, stem, stages, blocks, stem_width):
    layers = [(32, 3, 3, stem), *basic_blocks(stages, blocks, 32, stem_width)]
    expected = by_hand(layers) + stages[-1] * 10
    assert macs(create(name, 10), image(32)) == expected


def test_macs_of_vgg_with_a_single_dense_layer():
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    sides = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)
    layers = zip(sides, (3,) * 13, (3, *widths), widths, strict=False)
    assert macs(create("vgg16_bn_single", 10), image(32)) == by_hand(layers) + 5120


def test_macs_of_depthwise_convolutions():
    assert macs(create("mobilenet_v2", 1000), image(224)) == 300_774_272


SMALL_MOBILENET = {
    "widths": (4, 6),
    "blocks": (1, 2),
    "strides": (1, 2),
    "expansions": (1, 3),
    "stem_width": 4,
    "head_width": 8,
}
SMALL_VIT = {"patch": 4, "width": 8, "depth": 1, "heads": 2}
SMALL_GPT = {"max_length": 6, "width": 8, "depth": 1, "heads": 2}

# One small model a row, its input, and the widths of its narrower twin.
SMALL = {
    "resnet": (ResNet, {"blocks": 1, "widths": (3, 5)}, image(8), {"inner_widths": (2, 3)}),
    "imagenet_resnet": (
        ImageNetResNet,
        {"blocks": (1, 1), "widths": (3, 5)},
        image(16),
        {"inner_widths": (2, 4)},
    ),
    "bottleneck": (
        ImageNetResNet,
        {"blocks": (1, 1), "widths": (3, 4), "bottleneck": True},
        image(16),
        {"inner_widths": ((2, 1), (3, 2))},
    ),
    "wide_resnet": (
        WideResNet,
        {"blocks": 1, "widths": (3, 5), "stem_width": 2},
        image(8),
        {"inner_widths": (2, 4)},
    ),
    "small images": (
        ImageNetResNet,
        {"blocks": (1, 1), "widths": (3, 5), "small_images": True},
        image(8),
        {"inner_widths": (2, 4)},
    ),
    "vgg": (
        VGG16,
        {"widths": (5,) * 13, "hidden_width": 6},
        image(16),
        {"widths": (4, 3, 5, 2, 3, 4, 5, 4, 3, 2, 1, 4, 3), "hidden_width": 4},
    ),
    # New channels stand behind the old ones: only the last layer's are a prefix of the wide net's.
    "densenet": (
        DenseNet,
        {"blocks": 2, "layers": 2, "growth": 3, "stem_width": 4},
        image(8),
        {"inner_widths": (3, 3, 3, 1)},
    ),
    "mobilenet": (MobileNetV2, SMALL_MOBILENET, image(8), {"inner_widths": (7, 11)}),
    "vit": (ViT, SMALL_VIT, image(8), {"mlp_widths": (9,), "block_heads": (1,)}),
    "gpt": (GPT, SMALL_GPT, tokens(5), {"mlp_widths": (7,), "block_heads": (1,)}),
}


def drawn(shapes):
    """Values for all leaves, zeros of initialisation included."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


# These networks run once: what optimisation saves it does not cost.
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def example(x):
    """An input of this shape and type, with a batch of two."""
    rng = np.random.default_rng(1)
    shape = (2, *x.shape[1:])
    if x.dtype == jnp.int32:
        return jnp.asarray(rng.integers(0, 7, shape, np.int32))
    return jnp.asarray(rng.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("name", SMALL)
def test_narrow_network_is_the_wide_one_with_zeros(name):
    make, fields, x, narrower = SMALL[name]
    wide, narrow = make(7, **fields), make(7, **{**fields, **narrower})
    shapes = dict(zip(("params", "state"), variables(wide, x), strict=True))
    small = dict(zip(("params", "state"), variables(narrow, x), strict=True))
    # Absolute values of the state: some are variances.
    values = {
        "params": drawn(small["params"]),
        "state": jax.tree.map(np.abs, drawn(small["state"])),
    }
    padded = jax.tree.map(
        lambda value, leaf: np.pad(
            value, [(0, n - m) for n, m in zip(leaf.shape, value.shape, strict=True)]
        ),
        values,
        shapes,
    )
    assert count(padded["params"]) > count(values["params"])

    def run(model, variables):
        return model.apply({"params": variables["params"], **variables["state"]}, example(x), False)

    full, little = compiled(lambda a, b: (run(wide, a), run(narrow, b)))(padded, values)
    assert full.shape[0] == 2
    assert full.shape[-1] == 7
    np.testing.assert_allclose(little, full, rtol=1e-4, atol=1e-5)
    assert float(jnp.std(full)) > 0


# In bfloat16 a forgotten cast shows; in float32 it would not.
@pytest.mark.parametrize("name", SMALL)
def test_types_and_what_is_prunable(name):
    make, fields, x, _ = SMALL[name]
    model = make(7, dtype=jnp.bfloat16, **fields)
    params, state = variables(model, x)

    def run(params, state, x, key):
        given = {"params": params, **state}
        mutable = list(state)
        trained = model.apply(given, x, True, mutable=mutable, rngs={"dropout": key})
        return trained, model.apply(given, x, False)

    (logits, new), evaluated = jax.eval_shape(run, params, state, x, jax.random.key(0))
    assert logits.shape == evaluated.shape
    assert logits.dtype == evaluated.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, state)))
    assert dict(new) == state
    normalised = make not in (ViT, GPT)
    assert list(state) == (["batch_stats"] if normalised else [])
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in leaves:
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        assert default_where(path, leaf) == path.endswith("kernel"), path


def test_untied_output_of_gpt():
    params, _ = variables(GPT(7, **SMALL_GPT, tied=False), tokens(5))
    assert params["dense_out"]["kernel"].shape == (8, 7)
    assert "dense_out" not in variables(GPT(7, **SMALL_GPT), tokens(5))[0]


def test_registered_names_for_small_images():
    params, _ = variables(create("vit_ti4", 10, depth=1), image(32))
    assert params["positions"].shape == (1, 65, 192)
    assert params["block0"]["attention"]["query"]["kernel"].shape == (192, 3, 64)
    assert params["block0"]["mlp_in"]["kernel"].shape == (192, 768)
    params, _ = variables(create("vit_ti4", 10, depth=1, pool="mean"), image(32))
    assert params["positions"].shape == (1, 64, 192)
    assert "token" not in params


def test_transitions_of_densenet():
    model = DenseNet(7, blocks=3, layers=1, growth=2, stem_width=4, transition_widths=(3, 5))
    params, _ = variables(model, image(8))
    assert params["transition0_conv"]["kernel"].shape == (1, 1, 6, 3)
    assert params["transition1_conv"]["kernel"].shape == (1, 1, 5, 5)
    assert params["dense_out"]["kernel"].shape == (7, 7)


def test_gpt_looks_only_back():
    model = GPT(7, **SMALL_GPT)
    params = drawn(variables(model, tokens(5))[0])
    x = jnp.array([[1, 2, 3, 4, 5], [1, 2, 3, 6, 5]])
    one, other = compiled(lambda params: model.apply({"params": params}, x, False))(params)
    np.testing.assert_allclose(one[:3], other[:3], rtol=1e-6)
    assert (np.abs(one - other)[3:].max(-1) > 1e-3).all()


def test_dropout_is_for_training_and_needs_a_key():
    model = MobileNetV2(7, **SMALL_MOBILENET, dropout=0.5)
    params, state = variables(model, image(8))
    loss_fn = make_loss_fn(model)

    def loss(params, state, image, label, key):
        return loss_fn(params, state, {"image": image, "label": label}, key)[0]

    def evaluate(params, state, image):
        return model.apply({"params": params, **state}, image, False)

    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    training = jax.make_jaxpr(loss)(params, state, image(8), label, jax.random.key(0))
    assert "random_bits" in str(training)
    assert "random_bits" not in str(jax.make_jaxpr(evaluate)(params, state, image(8)))
    with pytest.raises(flax.errors.InvalidRngError, match='needs PRNG for "dropout"'):
        jax.eval_shape(
            lambda params, state, x: model.apply(
                {"params": params, **state}, x, True, mutable=["batch_stats"]
            ),
            params,
            state,
            image(8),
        )


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (ViT(7, **SMALL_VIT), image(10), "10x10 pixels do not consist of whole patches of 4x4"),
        (ViT(7, **{**SMALL_VIT, "heads": 3}), image(8), "width 8 is no multiple of heads 3"),
        (ViT(7, **SMALL_VIT, pool="max"), image(8), "unknown pool 'max'. Known: token, mean"),
        (ViT(7, **SMALL_VIT, mlp_widths=(3, 2)), image(8), r"mlp_widths is \(3, 2\), .* 1 entries"),
        (GPT(7, **SMALL_GPT), tokens(9), "sequence of 9 tokens is longer than max_length 6"),
        (GPT(7, **SMALL_GPT, block_heads=(0,)), tokens(5), "block_heads is .* at least one"),
        (DenseNet(7), image(3), "3 blocks needs images of at least 4x4 pixels, got 3x3"),
        (DenseNet(7, transition_widths=(3,)), image(8), "transition_widths is .* 2 entries"),
        (MobileNetV2(7, inner_widths=(96,)), image(8), "inner_widths is .* 16 entries"),
    ],
)
def test_errors_give_value_and_repair(model, x, message):
    with pytest.raises(ValueError, match=message):
        variables(model, x)
