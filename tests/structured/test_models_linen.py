"""Every architecture of the experiments, small, and the largest as shapes only."""

import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments import models
from tests.structured.checks import check_shrunk, normal, prunable_fraction, random_params
from tests.structured.recurrent import Recurrent


def images(side, batch=2, channels=3):
    return normal(batch, side, side, channels)


TOKENS = np.arange(16, dtype=np.int32).reshape(2, 8) % 11


def variables_of(model, x):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    return jax.eval_shape(lambda x: model.init(keys, x, train=False), x)


def apply_of(model, train):
    """A pure function of the variables: logits, and in training the new statistics."""

    def apply(variables, x):
        options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(3)}}
        return model.apply(variables, x, train=train, **(options if train else {}))

    return apply


def short(name):
    """A path without what all paths have."""
    return name.removeprefix("params/").replace("/kernel", "")


VGG_WIDTHS = (4, 4, 6, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8)

CASES = {
    # name: (model, input, {group: size}, train modes)
    **{
        name: (
            models.ResNet(10, blocks, widths=(4, 6, 8)),
            images(8),
            # Option A: all stages' channels hang together where the shortcuts carry them on; those
            # that a shortcut pads are the later stages' own.
            {
                "conv_in": 8,
                **{
                    f"stage{s}_block{b}/conv0": n
                    for s, n in enumerate((4, 6, 8))
                    for b in range(blocks)
                },
            },
            (True, False),
        )
        for name, blocks in (("resnet", 1), ("resnet, deeper", 2))
    },
    "vgg16": (
        models.VGG16(10, widths=VGG_WIDTHS, hidden_width=12),
        images(16, batch=4),
        {**{f"conv{i}": n for i, n in enumerate(VGG_WIDTHS)}, "dense_hidden": 12},
        (True, False),
    ),
    "imagenet resnet, basic": (
        models.ImageNetResNet(10, (1, 2), widths=(4, 6)),
        images(16),
        {
            "conv_in": 4,
            "stage0_block0/conv0": 4,
            "stage1_block0/conv0": 6,
            "stage1_block0/conv1": 6,
            "stage1_block1/conv0": 6,
        },
        (True, False),
    ),
    "imagenet resnet, bottleneck": (
        models.ImageNetResNet(10, (1, 2), bottleneck=True, widths=(3, 4)),
        images(16),
        {
            "conv_in": 3,
            **{f"stage{s}_block{b}/conv{i}": n
               for s, b, n in ((0, 0, 3), (1, 0, 4), (1, 1, 4)) for i in (0, 1)},
            "stage0_block0/conv2": 12,
            "stage1_block0/conv2": 16,
        },
        (True,),
    ),
    "densenet": (
        models.DenseNet(10, layers=2, blocks=2, growth=3, stem_width=4),
        images(8),
        # Everything in a dense block is read by norms side by side: one group, channel by channel.
        {"block0_layer0_conv": 10, "block1_layer0_conv": 16},
        (True, False),
    ),
    "mobilenet": (
        models.MobileNetV2(
            10, widths=(4, 4, 6), blocks=(1, 2, 1), strides=(1, 2, 2), expansions=(1, 2, 3),
            stem_width=4, head_width=10,
        ),
        images(8),
        {
            "conv_head": 10,
            "conv_in": 4,
            "stage0_block0/conv_project": 4,
            "stage1_block0/conv_depthwise": 8,
            "stage1_block0/conv_project": 4,
            "stage1_block1/conv_depthwise": 8,
            "stage2_block0/conv_depthwise": 12,
            "stage2_block0/conv_project": 6,
        },
        (True, False),
    ),
    "vit": (
        models.ViT(10, patch=4, width=12, depth=2, heads=3),
        images(8),
        {
            **{f"block{b}/{name}": n for b in (0, 1)
               for name, n in (("attention/key:1", 3), ("attention/key:2", 4),
                               ("attention/value", 4), ("mlp_in", 48))},
            "block0/attention/out": 12,
        },
        (False,),
    ),
    "vit, mean": (
        models.ViT(10, patch=4, width=6, depth=1, heads=2, pool="mean", dropout=0.1),
        images(8),
        {"block0/attention/key:1": 2, "block0/attention/key:2": 3, "block0/attention/value": 3,
         "block0/mlp_in": 24, "block0/attention/out": 6},
        (True,),
    ),
    **{
        name: (
            models.GPT(11, max_length=12, width=12, depth=depth, heads=3, dropout=0.1),
            TOKENS,
            {
                **{f"block{b}/{name}": n for b in range(depth)
                   for name, n in (("attention/key:1", 3), ("attention/key:2", 4),
                                   ("attention/value", 4), ("mlp_in", 48))},
                "block0/attention/out": 12,
            },
            (True,),
        )
        for name, depth in (("gpt", 1), ("gpt, deeper", 2))
    },
    "gpt, untied": (
        models.GPT(11, max_length=12, width=6, depth=1, heads=2, tied=False),
        TOKENS,
        {"block0/attention/key:1": 2, "block0/attention/key:2": 3, "block0/attention/value": 3,
         "block0/mlp_in": 24, "block0/attention/out": 6},
        (False,),
    ),
    "lstm": (
        Recurrent(5, 11, 6, (8, 4)),
        TOKENS,
        {"embed_tokens/embedding": 6, "layer0/hf": 8, "layer1/hf": 4},
        (False,),
    ),
    "gru": (
        Recurrent(5, None, widths=(8,), cell="gru"),
        normal(2, 5, 3),
        {"layer0/hn": 8},
        (False,),
    ),
    "lenet5": (
        models.LeNet5(10, widths=(3, 4, 8, 6)),
        images(12, channels=1),
        {"Conv_0": 3, "Conv_1": 4, "Dense_0": 8, "Dense_1": 6},
        (False,),
    ),
    "small cnn": (
        models.SmallCNN(10, widths=(4, 6, 8)),
        images(8),
        {"Conv_0": 4, "Conv_1": 6, "Dense_0": 8},
        (False,),
    ),
    "mlp": (
        models.MLP(10, widths=(8, 6)), images(4), {"Dense_0": 8, "Dense_1": 6}, (False,)
    ),
}  # fmt: skip


@functools.cache
def grouped(name, train):
    """The function of an architecture, random variables, its input and its groups."""
    model, x, *_ = CASES[name]
    apply, variables = apply_of(model, train), random_params(variables_of(model, x))
    return apply, variables, x, jp.structured.channel_groups(apply, variables, x)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * name.endswith("deeper")) for name in CASES],
)
def test_groups(name):
    _, _, expected, modes = CASES[name]
    for train in modes:
        *_, groups = grouped(name, train)
        assert {short(g.name): g.size for g in groups} == expected
        assert unexpectedly_fixed(groups) == []


def unexpectedly_fixed(groups):
    """What cannot vanish for another reason than that it is an input, a result or an image."""
    good = ("it meets axis", "it reaches axis", "moves along it", "looked up by index")
    return [
        f
        for f in groups.fixed
        if not any(text in f.reason for text in good)
        and (f.path, f.axis) != ("params/positions", 1)  # one for each token
    ]


MODES = [(name, train) for name, case in CASES.items() for train in case[3]]
# To compile the derivatives of the others takes long.
SMALL = {"resnet", "vit, mean", "gru", "mlp"}


def is_slow(name, train):
    """One mode of each architecture is in the default lane, and a residual network in both."""
    return name.endswith("deeper") or (train != CASES[name][3][0] and name != "resnet")


@pytest.mark.parametrize(
    ("name", "train"),
    [pytest.param(*mode, marks=[pytest.mark.slow] * is_slow(*mode)) for mode in MODES],
)
def test_shrunk_is_masked(name, train):
    check(name, train, 0.5, gradients=train == CASES[name][3][0] and name in SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.3, 0.7])
@pytest.mark.parametrize(("name", "train"), MODES)
def test_derivatives_of_all(name, train, fraction):
    check(name, train, fraction, gradients=True)


def check(name, train, fraction, gradients):
    apply, params, x, groups = grouped(name, train)
    # By many batch norms of few values rounding grows; in float64 the two agree to 1e-11.
    rtol = 1e-4 if name in ("vgg16", "mobilenet") and train else 1e-5
    small = check_shrunk(
        apply, params, (x,), fraction, groups=groups, gradients=gradients, rtol=rtol
    )
    assert size(small) < size(params)


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "name", ["small cnn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vit, mean", "lstm"))]
)
def test_other_batch_sizes_and_export(name):
    apply, params, x, groups = grouped(name, False)
    check_shrunk(
        apply, params, (x,), 0.7, groups=groups, gradients=False, other=(x[:1],), export=True
    )


# The models at their full size, as shapes only.

FULL = {
    # name: (image side, number of groups, channels)
    "resnet110": (32, 55, 64 + 54 * 0 + sum(18 * n for n in (16, 32, 64))),
    "resnet18": (224, 8 + 4, 1920 + 960),
    "resnet34": (224, 16 + 4, None),
    "resnet50": (224, 37, None),
    "vgg16_bn": (32, 14, 4224 + 512),
    "mobilenet_v2": (224, None, None),
    "densenet40": (32, 3, None),
    "vit_s16": (224, 1 + 12 * 4, 384 + 12 * (6 + 64 + 64 + 1536)),
}


def full(name):
    model = models.create(name, 1000 if FULL[name][0] > 32 else 10)
    x = jax.ShapeDtypeStruct((2, FULL[name][0], FULL[name][0], 3), jnp.float32)
    return model, variables_of(model, x), x


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size(name):
    _, n_groups, n_channels = FULL[name]
    model, variables, x = full(name)
    groups = jp.structured.channel_groups(apply_of(model, True), variables, x)
    assert unexpectedly_fixed(groups) == []
    # All that products make can go, but for the logits.
    made = prunable_fraction(groups)
    for path, leaf in _named(variables):
        if path.endswith("/kernel") and "dense_out" not in path:
            axes = 2 if "attention" in path and "out" not in path else 1
            assert made[path] in leaf.shape[-axes:], path
    assert n_groups is None or len(groups) == n_groups
    assert n_channels is None or sum(g.size for g in groups) == n_channels


def _named(tree):
    return [
        ("/".join(k.key for k in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def lines_run(f):
    """How many lines of jaxprune a call runs: what it costs, whatever else the machine does."""
    package, count = os.path.dirname(jp.__file__), 0

    def line(frame, event, arg):
        nonlocal count
        count += event == "line"
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: line if frame.f_code.co_filename.startswith(package) else None)
    try:
        f()
    finally:
        sys.settrace(before)
    return count


def chain(n, k):
    """Normalised layers that give back new statistics, in no framework: quick to trace."""
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    width = 8 * k
    params = {
        "first": struct(3, width),
        "layers": {f"l{i}": {"w": struct(width, width), "mean": struct(width)} for i in range(n)},
        "last": struct(width, 2),
    }

    def apply(params, x):
        x, stats = x.reshape(-1, 3) @ params["first"], {}
        for name, layer in params["layers"].items():
            x = jnp.tanh(x @ layer["w"])
            mean = x.mean(0)
            x, stats[name] = x - mean[None], {"mean": 0.9 * layer["mean"] + 0.1 * mean}
        return x @ params["last"], {"layers": stats}

    return apply, params


def network(model):
    return apply_of(model, True), variables_of(model, IMAGES)


IMAGES = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
# Of a depth and a factor of the widths.
GROWING = {
    "chain": chain,
    "basic": lambda n, k: network(models.ResNet(10, n, widths=(4 * k, 6 * k, 8 * k))),
    "bottleneck": lambda n, k: network(
        models.ImageNetResNet(10, (n, n), bottleneck=True, widths=(3 * k, 4 * k))
    ),
}


@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        ("chain", 16),
        pytest.param("basic", 9, marks=pytest.mark.slow),
        pytest.param("bottleneck", 8, marks=pytest.mark.slow),
    ],
)
def test_twice_the_depth_or_width_is_at_most_twice_the_work(kind, depth):
    def work(n, k):
        apply, variables = GROWING[kind](n, k)
        return lines_run(lambda: jp.structured.channel_groups(apply, variables, IMAGES))

    work(1, 1)  # what is evaluated once in a process
    once = work(depth, 1)
    assert once > 0
    assert work(2 * depth, 1) < 2.2 * once
    assert work(depth, 2) < 2.2 * once


@pytest.mark.slow
def test_a_full_size_network_is_cut_by_shapes_alone():
    model, variables, x = full("resnet50")
    apply = apply_of(model, False)
    groups = jp.structured.channel_groups(apply, variables, x)
    kept = [np.arange(g.size) % 2 == 0 for g in groups]
    masks = jp.structured.masks(groups, kept)
    small_apply, small = jp.structured.shrink(apply, variables, masks, x)
    assert jax.eval_shape(small_apply, small, x).shape == (2, 1000)
    assert small["params"]["conv_in"]["kernel"].shape == (7, 7, 3, 32)
    assert small["params"]["dense_out"]["kernel"].shape == (1024, 1000)
