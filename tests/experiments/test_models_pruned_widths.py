"""The published filter-pruning configurations, rebuilt as narrower networks, and their counts."""

import pytest

from experiments.models import create
from tests.experiments._shapes import count, image, macs, variables

# Widths that stay in each stage and layers that are skipped: Li et al., Pruning Filters for
# Efficient ConvNets, ICLR 2017 (A and B); Le and Hua, Network Pruning That Matters, ICLR 2021 (the
# others). Then parameters and MACs, summed over the layers. Layers count from 1, the first
# convolution of the network; the first one of block i, counted from 0, is layer 2 i + 2.
CIFAR = {
    "resnet56": {
        "A": ((14, 28, 57), (16, 20, 38, 54), 773_336, 112_435_840),
        "B": ((6, 22, 57), (16, 18, 20, 34, 38, 54), 735_712, 90_907_264),
        "C": ((6, 16, 38), (16, 18, 20, 34, 38, 54), 557_954, 74_908_288),
        "D": ((6, 12, 25), (16, 18, 20, 34, 38, 54), 436_756, 64_070_272),
    },
    "resnet110": {
        "A": ((8, 32, 64), (36,), 1_688_522, 212_779_648),
        "B": ((8, 19, 44), (36, 38, 74), 1_168_424, 155_124_352),
        "C": ((8, 16, 32), (36, 38, 74), 903_530, 132_563_584),
        "D": ((8, 12, 19), (36, 38, 74), 609_192, 106_242_688),
    },
}
RESNET34 = {
    "A": ((44, 89, 179, 512), (2, 8, 14, 16, 26, 28, 30, 32), 20_151_764, 3_100_184_576),
    "B": ((32, 51, 153, 512), (2, 8, 14, 16, 26, 28, 30, 32), 19_469_372, 2_782_269_440),
    "C": ((32, 64, 128, 256), (2, 8, 14, 16, 26, 32), 14_938_536, 2_536_607_744),
    "D": ((38, 76, 128, 256), (32,), 13_735_148, 2_162_696_192),
}
VGG = {
    "A": ((32, 64, 128, 128, 256, 256, 256) + (256,) * 6, 64.3, 34.2),
    "B": ((32, 64, 128, 128, 196, 196, 196, 196, 196, 256, 256, 256, 256), 72.3, 48.8),
    "C": ((32, 64, 64, 128, 128, 128, 128, 196, 196, 196, 196, 196, 196), 82.8, 69.6),
}


def inner_widths(blocks, full, kept, skipped):
    stages = [stage for stage, number in enumerate(blocks) for _ in range(number)]
    return tuple(
        full[stage] if 2 * i + 2 in skipped else kept[stage] for i, stage in enumerate(stages)
    )


@pytest.mark.parametrize("config", "ABCD")
@pytest.mark.parametrize("name", CIFAR)
def test_cifar_resnets(name, config):
    kept, skipped, parameters, expected_macs = CIFAR[name][config]
    blocks = (create(name, 10).blocks,) * 3
    model = create(name, 10, inner_widths=inner_widths(blocks, (16, 32, 64), kept, skipped))
    assert count(variables(model, image(32))[0]) == parameters
    # Tracing is slow: the others follow the same rule.
    if name == "resnet56" and config in "AD":
        assert macs(model, image(32)) == expected_macs


@pytest.mark.parametrize("config", "ABCD")
def test_resnet34(config):
    kept, skipped, parameters, expected_macs = RESNET34[config]
    inner = inner_widths((3, 4, 6, 3), (64, 128, 256, 512), kept, skipped)
    model = create("resnet34", 1000, inner_widths=inner)
    assert count(variables(model, image(224))[0]) == parameters
    if config in "AD":
        assert macs(model, image(224)) == expected_macs


@pytest.mark.parametrize(
    ("name", "parameters", "expected_macs"),
    [
        ("resnet18", 11_689_512, 1_814_073_344),
        ("resnet34", 21_797_672, 3_663_761_408),
        # Counts that are 100,352 higher include the average pooling of 7x7x2048.
        ("resnet50", 25_557_032, 4_089_184_256),
    ],
)
def test_dense_imagenet_resnets(name, parameters, expected_macs):
    model = create(name, 1000)
    assert count(variables(model, image(224))[0]) == parameters
    assert macs(model, image(224)) == expected_macs


# Uniform within a stage; NPTM's codes keep int(width * (1 - p)) of both inner convolutions.
@pytest.mark.parametrize(
    ("ratios", "parameters"),
    [
        ((0.40, 0.40, 0.40, 0.42), 14_229_642),
        ((0.25, 0.25, 0.25, 0.27), 17_913_255),
    ],
)
def test_resnet50_pairs(ratios, parameters):
    inner = tuple(
        (int(width * (1 - p)),) * 2
        for width, p, blocks in zip((64, 128, 256, 512), ratios, (3, 4, 6, 3), strict=True)
        for _ in range(blocks)
    )
    model = create("resnet50", 1000, inner_widths=inner)
    assert count(variables(model, image(224))[0]) == parameters


def of_features(params):
    """Parameters of the convolutions and their normalisation."""
    return count(params) - count(params, "dense") - count(params, "norm_hidden")


def test_dense_vgg():
    params, _ = variables(create("vgg16_bn", 10), image(32))
    assert count(params) == 14_987_722
    assert of_features(params) == 14_718_912


@pytest.mark.parametrize("config", VGG)
def test_pruned_vgg(config):
    widths, removed_parameters, removed_macs = VGG[config]
    model = create("vgg16_bn", 10, widths=widths)
    params, _ = variables(model, image(32))
    features = of_features(params)
    if config == "A":
        assert (features, count(params)) == (5_259_296, 5_397_034)
    assert 100 * (1 - features / 14_718_912) == pytest.approx(removed_parameters, abs=0.05)
    dense_macs = macs(create("vgg16_bn", 10), image(32))
    assert 100 * (1 - macs(model, image(32)) / dense_macs) == pytest.approx(removed_macs, abs=0.05)
    # Elsewhere only the widths differ.
    assert params["dense_hidden"]["kernel"].shape == (widths[-1], 512)


def test_names_stay_the_same():
    names = {}
    for inner in (None, (1, 2, 3)):
        params, _ = variables(create("resnet20", 10, widths=(3,), inner_widths=inner), image(8))
        names[inner] = sorted(params), sorted(params["stage0_block1"])
    assert names[None] == names[1, 2, 3]
    assert names[None] == (
        ["conv_in", "dense_out", "norm_in", "stage0_block0", "stage0_block1", "stage0_block2"],
        ["conv0", "conv1", "norm0", "norm1"],
    )


def test_errors_give_value_and_repair():
    with pytest.raises(ValueError, match=r"inner_widths is \(1, 2\), .* wants 3 entries"):
        variables(create("resnet20", 10, widths=(4,), inner_widths=(1, 2)), image(8))
    with pytest.raises(ValueError, match=r"inner_widths is \(1, 0, 2\), .* at least one channel"):
        variables(create("resnet20", 10, widths=(4,), inner_widths=(1, 0, 2)), image(8))
    with pytest.raises(ValueError, match=r"form of its full widths, \(\(64, 64\), \(64, 64\)"):
        variables(create("resnet50", 10, inner_widths=(1,) * 16), image(32))
    with pytest.raises(ValueError, match=r"widths is \(64,\), .* wants 13 entries"):
        variables(create("vgg16_bn", 10, widths=(64,)), image(32))
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 8x8"):
        variables(create("vgg16_bn", 10), image(8))
