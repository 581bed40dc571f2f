"""Every output unit loses the same number of its weights."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import masks


def draw(seed, shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.round(np.abs(x), 1)


def lowest_of_rows(rows, k):
    """What goes of each row: the k lowest, the first among equals."""
    order = np.argsort(rows, axis=1, kind="stable")[:, :k]
    removed = np.zeros(rows.shape, bool)
    np.put_along_axis(removed, order, True, axis=1)
    return removed


LAYOUTS = {
    "flax": {"dense/kernel": (12, 5), "conv/kernel": (3, 3, 4, 6), "query/kernel": (8, 2, 3)},
    "haiku": {"linear/w": (12, 5), "conv/w": (3, 3, 4, 6)},
    "equinox": {"dense/weight": (5, 12), "conv/weight": (6, 4, 3, 3)},
}
UNITS = {"query/kernel": (1, 2)}


def tree_of(layout):
    return {
        path.split("/")[0]: {path.split("/")[1]: draw(i, shape)}
        for i, (path, shape) in enumerate(LAYOUTS[layout].items())
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("jit", [False, True])
def test_units_lose_their_lowest(layout, jit):
    scores = tree_of(layout)
    allocation = masks.per_output(layout=layout)

    def make(scores):
        return masks.make(scores, 0.6, allocation=allocation)

    mask = (jax.jit(make) if jit else make)(scores)
    for path, shape in LAYOUTS[layout].items():
        module, name = path.split("/")
        axes = UNITS.get(path, (0,) if layout == "equinox" else (len(shape) - 1,))
        units = int(np.prod([shape[a] for a in axes]))
        rows = np.moveaxis(scores[module][name], axes, range(len(axes))).reshape(units, -1)
        kept = np.moveaxis(np.asarray(mask[module][name]), axes, range(len(axes)))
        removed = lowest_of_rows(rows, round(0.6 * rows.shape[1]))
        np.testing.assert_array_equal(~kept.reshape(units, -1), removed, err_msg=path)


def test_the_axis_can_be_named():
    scores = {"w": draw(0, (6, 8))}
    by_axis = masks.make(scores, 0.5, allocation=masks.per_output(axis=0))
    by_function = masks.make(scores, 0.5, allocation=masks.per_output(axis=lambda path, leaf: 0))
    by_layout = masks.make(scores, 0.5, allocation=masks.per_output(layout="equinox"))
    assert np.asarray(by_axis["w"]).sum(axis=1).tolist() == [4] * 6
    np.testing.assert_array_equal(by_axis["w"], by_function["w"])
    np.testing.assert_array_equal(by_axis["w"], by_layout["w"])


@pytest.mark.parametrize("jit", [False, True])
def test_nested(jit):
    scores = {"w": draw(0, (8, 6))}
    allocation = masks.per_output(axis=-1)
    within = masks.make(scores, 0.25, allocation=allocation)
    other = {"w": draw(1, (8, 6))}

    def make(other, within):
        return masks.make(other, 0.5, within=within, allocation=allocation)

    mask = np.asarray((jax.jit(make) if jit else make)(other, within)["w"])
    before = np.asarray(within["w"])
    assert not (mask & ~before).any()
    expected = lowest_of_rows(np.where(before, other["w"], -1).T, 4).T
    np.testing.assert_array_equal(~mask, expected)


@pytest.mark.parametrize("jit", [False, True])
def test_one_unit_that_is_sparser_than_the_target_is_named(jit):
    scores = {"w": draw(0, (8, 3))}
    within = np.ones((8, 3), bool)
    within[:6, 1] = False  # 6 of its 8 weights

    def make(scores, within):
        allocation = masks.per_output(axis=-1)
        return masks.make_with_info(scores, 0.5, within={"w": within}, allocation=allocation)

    mask, info = (jax.jit(make) if jit else make)(scores, within)
    assert np.asarray(mask["w"]).sum(axis=0).tolist() == [4, 2, 4]
    with pytest.raises(ValueError, match=r"the target removes 4 weights.*has removed 6"):
        info.check()


def test_nan_is_kept_and_reported():
    scores = {"w": draw(0, (8, 3))}
    scores["w"][2, 1] = np.nan
    allocation = masks.per_output(axis=-1)
    for make in (masks.make_with_info, jax.jit(masks.make_with_info, static_argnums=1)):
        mask, info = (
            make(scores, 0.75)
            if make is not masks.make_with_info
            else make(scores, 0.75, allocation=allocation)
        )
        assert np.asarray(mask["w"])[2, 1]
        assert np.asarray(info.nan).tolist() == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": 2}, r"the axes \(2,\) of 'w', of shape \(8, 6\)"),
        ({"axis": (0, 1)}, "and not all"),
        ({"axis": (0, 0)}, "each once"),
        ({"axis": 0, "layout": "flax"}, "either axis=.*or layout="),
        ({}, "either axis=.*or layout="),
        ({"layout": "torch"}, "got 'torch'"),
        ({"axis": 0, "on_collapse": "no"}, "on_collapse is"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        masks.make({"w": draw(0, (8, 6))}, 0.5, allocation=masks.per_output(**options))


def test_not_beside_groups_that_go_whole():
    with pytest.raises(ValueError, match="neither limits nor a pattern"):
        masks.make(
            {"w": draw(0, (8, 6))},
            0.5,
            allocation=masks.per_output(axis=-1),
            pattern=masks.block(2, 2),
        )
    with pytest.raises(ValueError, match="counts output units"):
        masks.leaf_counts({"w": draw(0, (8, 6))}, 0.5, allocation=masks.per_output(axis=-1))


def test_beside_a_pattern_that_fixes_the_number():
    scores = {"a": draw(0, (8, 6)), "b": draw(1, (8, 6))}

    def pattern(path, leaf):
        return masks.nm(2, 4, axis=0)(path, leaf) if path == "a" else None

    with pytest.raises(ValueError, match="fixes the sparsity"):
        masks.make(scores, 0.25, allocation=masks.per_output(axis=-1), pattern=pattern)
    mask = masks.make(scores, 0.5, allocation=masks.per_output(axis=-1), pattern=pattern)
    assert np.asarray(mask["b"]).sum(axis=0).tolist() == [4] * 6


def test_a_prune_in_cycles():
    params = {"kernel": draw(0, (16, 4))}
    mask = None
    for target in jp.schedules.imp_sparsities(0.75, 2):
        params, mask = jp.prune(
            params, target, within=mask, allocation=masks.per_output(layout="flax")
        )
    assert np.asarray(mask["kernel"]).sum(axis=0).tolist() == [4] * 4
