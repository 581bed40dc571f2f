"""A network whose layers are stacked in one leaf is pruned like the same network unstacked."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune import masks

STACKED = {"blocks/.*": 0, "experts": (0, 2)}
LAYERS, EXPERTS = 4, 6


def draw(seed, shape, *, dead=None):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x = np.round(np.abs(x), 1)  # many ties
    if dead is not None:
        x[dead] /= 1000
    return x


def network(dead=None):
    """Scores: two kernels of four layers each, experts stacked on two axes, and one layer alone."""
    return {
        "blocks": {"a": draw(0, (LAYERS, 8, 12), dead=dead), "b": draw(1, (LAYERS, 4, 8))},
        "experts": draw(2, (2, 8, 3, 16)),
        "head": draw(3, (16, 8)),
    }


def unstacked(tree):
    """The same, a leaf a layer, in the order of the layers of `stacked`."""
    one = {}
    one.update({f"a{i}": x for i, x in enumerate(tree["blocks"]["a"])})
    one.update({f"b{i}": x for i, x in enumerate(tree["blocks"]["b"])})
    pairs = [(i, j) for i in range(2) for j in range(3)]
    one.update({f"c{k}": tree["experts"][i, :, j] for k, (i, j) in enumerate(pairs)})
    return one | {"d": tree["head"]}


def names(path):
    """How a layer is called in the unstacked tree."""
    index = {f"[{i},{j}]": f"c{3 * i + j}" for i in range(2) for j in range(3)}
    return (
        path.replace("head", "d")
        .replace("blocks/a[", "a")
        .replace("blocks/b[", "b")
        .replace("experts", "")
        .rstrip("]")
        if "experts" not in path
        else index[path.removeprefix("experts")]
    )


RULES = {
    "global": {},
    "limits": {"allocation": masks.globally(max_sparsity=0.7, min_sparsity=0.1)},
    "uniform": {"allocation": masks.uniform()},
    "erk": {"allocation": masks.erk(max_sparsity=0.95)},
    "lamp": {"allocation": masks.lamp()},
    "per output": {"allocation": masks.per_output(axis=-1)},
    "nm": {"pattern": masks.nm(2, 4, axis=-1)},
    "blocks": {"pattern": masks.block(2, 4)},
    "channels, erk": {"pattern": masks.channels(-1, norm="l2"), "allocation": masks.erk()},
}


@functools.partial(jax.jit, static_argnames=("rules", "stacked"))
def compiled(scores, within, rules, stacked):
    options = RULES[rules] | ({"stacked": STACKED} if stacked else {})
    target = None if "nm" in rules else 0.6
    return masks.make_with_info(scores, target, within=within, **options)


def check_equal(one, other):
    """A mask and a `PruneInfo` of the stacked network, and those of the unstacked one."""
    (mask, info), (other_mask, other_info) = one, other
    for name, leaf in unstacked(jax.tree.map(np.asarray, mask)).items():
        np.testing.assert_array_equal(leaf, other_mask[name], err_msg=name)
    assert [names(path) for path in info.paths] == list(other_info.paths)
    assert (info.sizes, info.pools, info.unit) == (
        other_info.sizes,
        other_info.pools,
        other_info.unit,
    )
    for field in ("removed", "removed_before", "kept", "kept_before", "nan", "beyond"):
        np.testing.assert_array_equal(getattr(info, field), getattr(other_info, field), field)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("rules", RULES)
def test_like_the_same_network_unstacked(rules, nested):
    scores = network()
    within = None
    if nested:
        within = masks.make(scores, 0.05, allocation=masks.uniform(), stacked=STACKED)
        within = jax.tree.map(np.asarray, within)
    target = None if rules == "nm" else 0.6
    here = masks.make_with_info(scores, target, within=within, stacked=STACKED, **RULES[rules])
    apart = None if within is None else unstacked(within)
    expected = masks.make_with_info(unstacked(scores), target, within=apart, **RULES[rules])
    check_equal(here, expected)
    check_equal(compiled(scores, within, rules, True), expected)


MESH = Mesh(np.array(jax.devices()[:2]), ("x",))


@pytest.mark.parametrize("rules", ["global", "limits", "per output", "nm", "channels, erk"])
def test_spread_along_the_stacked_axis(rules):
    scores = network()
    spread = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(MESH, PartitionSpec("x"))), scores
    )
    mask, info = compiled(spread, None, rules, True)
    check_equal((mask, info), compiled(unstacked(scores), None, rules, False))
    # No layer is moved to another device to be counted.
    text = compiled.lower(spread, None, rules, True).compile().as_text()
    gathered = [line for line in text.splitlines() if " all-gather(" in line]
    assert not any("f32[" in line.split("all-gather(")[0] for line in gathered), gathered


def test_the_whole_way_through_prune():
    params = {"blocks": {"kernel": draw(0, (LAYERS, 8, 8)), "bias": np.ones((LAYERS, 8))}}
    rules = {"allocation": masks.uniform(), "stacked": {"blocks/.*": 0}}
    pruned, mask = jp.prune(params, 0.7, **rules)
    kept = np.asarray(mask["blocks"]["kernel"]).sum(axis=(1, 2))
    assert kept.tolist() == [64 - 45] * LAYERS
    np.testing.assert_array_equal(
        pruned["blocks"]["kernel"],
        params["blocks"]["kernel"] * np.asarray(mask["blocks"]["kernel"]),
    )
    assert mask["blocks"]["bias"] is None


def test_a_small_layer_is_not_cut_off_by_its_neighbours():
    scores = {"blocks": {"kernel": draw(0, (LAYERS, 8, 8), dead=2)}}
    with pytest.raises(ValueError, match=r"no weight is left of 'blocks/kernel\[2\]'"):
        masks.make(scores, 0.7, stacked={"blocks/.*": 0})
    allow = masks.globally(on_collapse="allow")
    _, info = masks.make_with_info(scores, 0.7, allocation=allow, stacked={"blocks/.*": 0})
    assert info.collapsed() == ["blocks/kernel[2]"]
    masks.make(scores, 0.7)  # one leaf: nothing is cut off


def test_rules_on_paths_name_a_leaf_or_a_layer():
    scores = {"blocks": {"kernel": draw(0, (LAYERS, 8, 8))}, "head": draw(1, (8, 8))}
    rules = {"blocks/kernel[1]": 0.25, "blocks/kernel": 0.5, "head": 0.0}
    mask = masks.make(scores, None, allocation=masks.per_leaf(rules), stacked={"blocks/kernel": 0})
    kept = np.asarray(mask["blocks"]["kernel"]).sum(axis=(1, 2))
    assert kept.tolist() == [32, 48, 32, 32]
    assert mask["head"].all()


def test_plans_count_layers():
    scores = network()
    counts = masks.leaf_counts(scores, 0.5, allocation=masks.uniform(), stacked=STACKED)
    expected = masks.leaf_counts(unstacked(scores), 0.5, allocation=masks.uniform())
    assert counts == expected
    plan = masks.plan(scores, [0.3, 0.6], allocation=masks.erk(), stacked=STACKED)
    apart = masks.plan(unstacked(scores), [0.3, 0.6], allocation=masks.erk())
    ours, theirs = (jax.jit(p.make)(s, 1) for p, s in [(plan, scores), (apart, unstacked(scores))])
    jax.tree.map(np.testing.assert_array_equal, unstacked(jax.tree.map(np.asarray, ours)), theirs)
    by_count = masks.plan_counts(scores, [counts.removed], stacked=STACKED)
    uniform = masks.make(scores, 0.5, allocation=masks.uniform(), stacked=STACKED)
    jax.tree.map(np.testing.assert_array_equal, by_count.make(scores, 0), uniform)
    rules = {"allocation": masks.per_output(axis=-1), "stacked": STACKED}
    removed = masks.count_removed(scores, 0.6, **rules)
    mask = masks.make(scores, 0.6, **rules)
    assert removed == sum(int((~np.asarray(m)).sum()) for m in jax.tree.leaves(mask))


def test_drop_by_sign_of_each_layer():
    values = {"w": draw(0, (3, 4, 6)) - 0.5}
    within = {"w": np.ones((3, 4, 6), bool)}
    mask = masks.drop_by_sign(values, 0.4, within=within, stacked={"w": 0})["w"]
    for i in range(3):
        one = masks.drop_by_sign(values["w"][i], 0.4, within=within["w"][i])
        np.testing.assert_array_equal(mask[i], one)


@pytest.mark.parametrize(
    ("stacked", "error", "message"),
    [
        ({"block/.*": 0}, ValueError, r"the rule 'block/\.\*', which matches no prunable leaf"),
        ({"blocks/a": 3}, ValueError, r"axis 3 of 'blocks/a', whose shape is \(4, 8, 12\)"),
        ({"blocks/a": (0, -3)}, ValueError, r"the axes \(0, -3\) of 'blocks/a'"),
        ({"head": (0, 1)}, ValueError, "a layer has an axis of its own"),
        ({"blocks/a": "0"}, TypeError, "stacked gives '0' for 'blocks/a'"),
        ({"blocks/a": True}, TypeError, "stacked gives True"),
        (["blocks"], TypeError, "stacked is a mapping from a path"),
        ({"blocks/(": 0}, ValueError, "no regular expression"),
    ],
)
def test_wrong_rules(stacked, error, message):
    with pytest.raises(error, match=message):
        masks.make(network(), 0.5, stacked=stacked)


def test_a_pattern_cuts_all_layers_of_a_leaf_alike():
    def pattern(path, leaf):
        del leaf
        return None if path.endswith("[0]") else masks.PatternSpec((-1,), (4,), kept=2)

    with pytest.raises(ValueError, match="cuts the layers stacked in 'w' in different ways"):
        masks.make({"w": draw(0, (3, 4, 8))}, None, pattern=pattern, stacked={"w": 0})


def test_no_layers():
    scores = {"a": np.zeros((0, 4, 4), np.float32), "b": draw(0, (4, 4))}
    mask = masks.make(scores, 0.5, stacked={"a": 0})
    assert mask["a"].shape == (0, 4, 4)
    assert int(mask["b"].sum()) == 8
