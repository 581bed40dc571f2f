"""The published configurations, from scores to small parameters, give the published counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments.models import create
from tests.experiments._shapes import count, image, macs, variables
from tests.structured.checks import random_params

st = jp.structured

# Parameters and MACs of what is left, summed over the layers. The widths: Li et al., Pruning
# Filters for Efficient ConvNets, ICLR 2017 (A and B); Le and Hua, Network Pruning That Matters,
# ICLR 2021 (the others).
EXPECTED = {
    "resnet56-A": (773_336, 112_435_840),
    "resnet56-B": (735_712, 90_907_264),
    "resnet56-C": (557_954, 74_908_288),
    "resnet56-D": (436_756, 64_070_272),
    "resnet110-A": (1_688_522, 212_779_648),
    "resnet110-B": (1_168_424, 155_124_352),
    "resnet110-C": (903_530, 132_563_584),
    "resnet110-D": (609_192, 106_242_688),
}
DENSE = {"resnet56": (853_018, 125_485_696), "resnet110": (1_727_962, 252_887_680)}
# Of parameters removed, in percent.
ROUNDS = (19.0, 35.6, 48.0, 58.4, 66.4, 72.6, 78.8, 83.9)


class _Net:
    """A CIFAR ResNet with random weights, its groups, its scores, the paths to prune in order."""

    def __init__(self, name):
        self.model, self.x = create(name, 10), image(32)
        params, state = variables(self.model, self.x)
        self.params = random_params({"params": params, **state})
        self.groups = st.channel_groups(self.apply, self.params, self.x)
        self.scores = st.magnitude(self.groups, self.params)
        self.paths = st.natural_order(g.name for g in self.groups if "_block" in g.name)

    def apply(self, variables, x):
        return self.model.apply(variables, x, False)

    def widths(self, name):
        return dict(zip(self.paths, st.pfec(name), strict=True))

    def masks(self, name):
        allocation = st.to_widths(self.widths(name))
        return st.masks(self.groups, st.select(self.groups, self.scores, allocation=allocation))


@functools.cache
def _resnet(name):
    return _Net(name)


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in EXPECTED if "56" in name),
        *(pytest.param(name, marks=pytest.mark.slow) for name in EXPECTED if "110" in name),
    ],
)
def test_cifar_resnets(name):
    net = _resnet(name.partition("-")[0])
    masks = net.masks(name)
    small_apply, small = st.shrink(net.apply, net.params, masks, net.x)
    assert count(small["params"]) == EXPECTED[name][0]
    assert jp.metrics.flops(small_apply, small, net.x).macs == EXPECTED[name][1]
    cut = st.cut(net.params, net.groups, masks)
    assert jax.tree.map(jnp.shape, cut) == jax.tree.map(jnp.shape, small)
    widths = st.widths(net.groups, masks)
    assert tuple(widths[path] for path in net.paths) == st.pfec(name)


def test_the_filters_with_the_largest_norm_stay():
    net = _resnet("resnet56")
    kept = st.select(net.groups, net.scores, allocation=st.to_widths(net.widths("resnet56-D")))
    for group, stays in zip(net.groups, kept, strict=True):
        if "_block" not in group.name:
            assert stays.all()
            continue
        block, conv, leaf = group.name.split("/")[1:]
        norms = np.abs(np.asarray(net.params["params"][block][conv][leaf])).sum((0, 1, 2))
        order = np.argsort(norms, kind="stable")
        np.testing.assert_array_equal(np.sort(order[group.size - stays.sum() :]),
                                      np.flatnonzero(stays))  # fmt: skip


def test_ratios_by_stage_are_configuration_d_but_for_skipped_layers():
    net = _resnet("resnet56")
    allocation = st.ratios({r".*/stage\d_block\d+/conv0/kernel": 0.6}, count="floor_kept")
    skipped = [net.paths[layer // 2 - 1] for layer in (16, 18, 20, 34, 38, 54)]
    kept = st.select(net.groups, net.scores, allocation=allocation, skip=skipped)
    widths = {g.name: int(k.sum()) for g, k in zip(net.groups, kept, strict=True)}
    assert tuple(widths[path] for path in net.paths) == st.pfec("resnet56-D")


@pytest.mark.parametrize("number", range(1, 9))
def test_iterative_rounds(number):
    model = create("resnet56", 10, inner_widths=st.pfec(f"resnet56-I{number}"))
    left = count(variables(model, image(32))[0])
    assert 100 * (1 - left / DENSE["resnet56"][0]) == pytest.approx(ROUNDS[number - 1], abs=0.05)
    if number > 1:  # of what is left 10, 15 and 20 % go, and what is kept is rounded down
        before = st.pfec(f"resnet110-I{number - 1}")
        after = st.pfec(f"resnet110-I{number}")
        fractions = [p for p in (0.1, 0.15, 0.2) for _ in range(18)]
        assert after == tuple(int(n * (1 - p)) for n, p in zip(before, fractions, strict=True))


@pytest.mark.parametrize(
    ("name", "parameters", "expected_macs"),
    [
        ("resnet34-A", 20_151_764, 3_100_184_576),
        ("resnet34-B", 19_469_372, 2_782_269_440),
        ("resnet34-C", 14_938_536, 2_536_607_744),
        ("resnet34-D", 13_735_148, 2_162_696_192),
    ],
)
def test_resnet34_widths(name, parameters, expected_macs):
    model = create("resnet34", 1000, inner_widths=st.pfec(name))
    assert count(variables(model, image(224))[0]) == parameters
    if name == "resnet34-B":
        assert macs(model, image(224)) == expected_macs


def test_resnet18_widths():
    for name, fractions in {"C": (0.1, 0.1, 0.2, 0.3), "D": (0.2, 0.2, 0.3, 0.3)}.items():
        want = [
            int(width * (1 - p))
            for width, p in zip((64, 128, 256, 512), fractions, strict=True)
            for _ in range(2)
        ]
        assert st.pfec(f"resnet18-{name}") == (*want[:-1], 512)


def test_vgg16():
    # From shapes alone; which filters go does not matter to counts.
    model, x = create("vgg16_bn", 10), image(32)
    params, state = variables(model, x)
    params = {"params": params, **state}
    groups = st.channel_groups(lambda p, x: model.apply(p, x, False), params, x)
    paths = st.natural_order(g.name for g in groups if "/conv" in g.name)
    widths = st.to_widths(dict(zip(paths, st.pfec("vgg16-A"), strict=True)))
    scores = [np.arange(g.size) for g in groups]
    masks = st.masks(groups, st.select(groups, scores, allocation=widths))
    assert count(st.cut(params, groups, masks)["params"]) == 5_397_034
    left = macs(create("vgg16_bn", 10, widths=st.pfec("vgg16-A")), x)
    assert 100 * (1 - left / macs(model, x)) == pytest.approx(34.2, abs=0.05)


@pytest.mark.parametrize(("name", "removed"), [("vgg16-B", 72.3), ("vgg16-C", 82.8)])
def test_vgg16_widths(name, removed):
    params, _ = variables(create("vgg16_bn", 10, widths=st.pfec(name)), image(32))
    features = count(params) - count(params, "dense") - count(params, "norm_hidden")
    assert 100 * (1 - features / 14_718_912) == pytest.approx(removed, abs=0.05)


def test_order_and_errors():
    paths = [f"stage0_block{i}" for i in (10, 9, 1)] + ["stage10_block0", "stage2", "a1b", "a"]
    assert st.natural_order(paths) == [
        "a", "a1b", "stage0_block1", "stage0_block9", "stage0_block10", "stage2", "stage10_block0",
    ]  # fmt: skip
    assert st.natural_order(["x/2/w", "x/10/w", "1", "x"]) == ["1", "x", "x/2/w", "x/10/w"]
    with pytest.raises(ValueError, match="no configuration 'resnet56-E'; there are resnet56-A, "):
        st.pfec("resnet56-E")
    with pytest.raises(ValueError, match="no configuration 'resnet34-I1'"):
        st.pfec("resnet34-I1")
