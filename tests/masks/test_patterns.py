"""Patterns: N:M, blocks, channels; hand cases, layouts, remainders, checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.masks import PatternSpec
from jaxprune.masks._plan_counts import count_removed, leaf_counts
from tests.masks import oracle

nm, block, channels = jp.masks.nm, jp.masks.block, jp.masks.channels
ALLOW = jp.masks.globally(on_collapse="allow")


def random_scores(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_along(mask, scores, n, axis, m):
    theirs = oracle.keep_best(np.asarray(scores), n, axis, m)
    np.testing.assert_array_equal(mask, theirs)


class TestNm:
    def test_by_hand(self):
        scores = {"w": jnp.array([[4.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]])}
        assert jp.masks.make(scores, None, pattern=nm(2, 4, axis=-1))["w"].tolist() == [
            [True, False, False, True],
            [False, False, True, True],  # ties: the lowest index goes first
        ]
        assert jp.masks.make(scores, None, pattern=nm(1, 2, axis=0))["w"].tolist() == [
            [True, False, True, True],
            [False, True, False, False],
        ]

    @pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
    def test_every_axis(self, axis):
        scores = random_scores(4, 8, 4)
        mask = jp.masks.make({"w": scores}, None, pattern=nm(2, 4, axis=axis))["w"]
        assert_along(mask, scores, 2, axis, 4)

    @pytest.mark.parametrize(
        ("path", "shape", "axis"),
        [
            (("Dense_0", "kernel"), (8, 3), 0),
            (("Conv_0", "kernel"), (3, 3, 4, 5), 2),
            (("attention", "query", "kernel"), (8, 2, 3), 0),
            (("attention", "key", "kernel"), (8, 2, 3), 0),
            (("attention", "value", "kernel"), (8, 2, 3), 0),
            (("attention", "out", "kernel"), (3, 4, 5), 1),
            (("layers", "query", "kernel"), (2, 8, 2, 3), 1),  # stacked by flax.linen.scan
            (("layers", "Dense_0", "kernel"), (2, 8, 3), 1),
            (("query", "kernel"), (8, 3), 0),  # of one head, a matrix
            (("query", "Dense_0", "kernel"), (3, 8, 5), 1),  # only the name next to the leaf
        ],
    )
    def test_flax(self, path, shape, axis):
        scores = random_scores(*shape)
        tree = scores
        for part in reversed(path):
            tree = {part: tree}
        for layout in ("flax", "haiku"):
            mask = jp.masks.make(tree, None, pattern=nm(2, 4, layout=layout))
            assert_along(jax.tree.leaves(mask)[0], scores, 2, axis, 4)

    def test_flax_nnx(self):
        from flax import nnx

        attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, rngs=nnx.Rngs(0))
        scores = jp.scores.magnitude(nnx.state(attention, nnx.Param))
        # The paths are 'query/kernel/value' there; each sums over the 8 inputs.
        scores = {name: {"kernel": scores[name]["kernel"]} for name in ("query", "key", "value")}
        mask = jp.masks.make(scores, None, pattern=nm(2, 4, layout="flax"))
        for ours, score in zip(jax.tree.leaves(mask), jax.tree.leaves(scores), strict=True):
            assert_along(ours, score, 2, 0, 4)

    @pytest.mark.parametrize("shape", [(3, 8), (5, 4, 3, 3)])
    def test_equinox(self, shape):
        scores = random_scores(*shape)
        mask = jp.masks.make({"weight": scores}, None, pattern=nm(2, 4, layout="equinox"))
        assert_along(mask["weight"], scores, 2, 1, 4)

    def test_axis_function(self):
        scores = {"a": random_scores(4, 3), "b": random_scores(3, 4, seed=1)}
        pattern = nm(1, 4, axis=lambda path, leaf: 0 if path == "a" else leaf.ndim - 1)
        mask = jp.masks.make(scores, None, pattern=pattern)
        assert_along(mask["a"], scores["a"], 1, 0, 4)
        assert_along(mask["b"], scores["b"], 1, 1, 4)

    def test_remainder(self):
        scores = {"w": random_scores(10, 3)}
        with pytest.raises(ValueError, match=r"groups of 4 do not divide axis 0 of 'w', of shape"):
            jp.masks.make(scores, None, pattern=nm(2, 4, axis=0))
        mask = jp.masks.make(scores, None, pattern=nm(2, 4, axis=0, remainder="dense"))["w"]
        assert mask[8:].all()
        assert_along(mask, scores["w"], 2, 0, 4)

    def test_an_axis_shorter_than_a_group_stays(self):
        scores = {"w": random_scores(3, 2), "v": random_scores(4, 2)}
        mask = jp.masks.make(scores, None, pattern=nm(2, 4, axis=0, remainder="dense"))
        assert mask["w"].all()
        assert int(mask["v"].sum()) == 4

    def test_within(self):
        scores = {"w": jnp.array([[4.0], [3.0], [2.0], [1.0], [8.0], [7.0], [6.0], [5.0]])}
        within = {"w": jnp.array([0, 0, 0, 1, 0, 1, 1, 1], bool)[:, None]}
        mask = jp.masks.make(scores, None, within=within, pattern=nm(2, 4, axis=0))["w"]
        # Of the first group one was left, and stays alone; what is gone does not come back.
        assert mask[:, 0].tolist() == [0, 0, 0, 1, 0, 1, 1, 0]

    @pytest.mark.parametrize("seed", range(3))
    def test_within_equals_the_oracle(self, seed):
        scores = jnp.round(random_scores(8, 12, seed=seed), 1)
        within = random_scores(8, 12, seed=seed + 10) > -0.3
        mask = jp.masks.make({"w": scores}, None, within={"w": within}, pattern=nm(2, 4, axis=1))
        theirs = oracle.keep_best(np.asarray(scores), 2, 1, 4, np.asarray(within))
        np.testing.assert_array_equal(mask["w"], theirs)

    def test_sparsity_is_fixed(self):
        scores = {"w": random_scores(8, 12)}
        free = jp.masks.make(scores, None, pattern=nm(2, 4, axis=0))
        for sparsity in (0.5, np.float32(0.5), jnp.float32(0.5)):
            same = jp.masks.make(scores, sparsity, pattern=nm(2, 4, axis=0))
            np.testing.assert_array_equal(same["w"], free["w"])
        for sparsity in (0.9, 0.0, 0.5001):
            with pytest.raises(ValueError, match=r"2:4 pattern fixes the sparsity, 0.5; got"):
                jp.masks.make(scores, sparsity, pattern=nm(2, 4, axis=0))
        with pytest.raises(ValueError, match=r"fixes the sparsity, 0.5; got a traced one"):
            jax.jit(lambda p: jp.masks.make(scores, p, pattern=nm(2, 4, axis=0)))(jnp.float32(0.5))

    def test_two_thirds_is_one_of_three(self):
        scores = {"w": random_scores(6, 2)}
        mask = jp.masks.make(scores, 2 / 3, pattern=nm(1, 3, axis=0))
        assert int(mask["w"].sum()) == 4

    def test_sparsity_that_is_no_number(self):
        with pytest.raises(TypeError, match="sparsity is a number"):
            jp.masks.make({"w": random_scores(4, 2)}, "half", pattern=nm(2, 4, axis=0))

    def test_leaves_without_the_pattern(self):
        scores = {"conv": random_scores(3, 3, 2, 4), "dense": random_scores(8, 2)}
        pattern = lambda path, leaf: nm(2, 4, axis=0)(path, leaf) if path == "dense" else None  # noqa: E731
        for allocation in (None, jp.masks.globally(), jp.masks.uniform(), jp.masks.erk()):
            mask = jp.masks.make(scores, None, pattern=pattern, allocation=allocation)
            assert mask["conv"].all()
            assert_along(mask["dense"], scores["dense"], 2, 0, 4)
        mask = jp.masks.make(scores, 0.5, pattern=pattern)
        assert int(mask["conv"].sum()) == 36
        allocation = jp.masks.per_leaf({"conv": 0.25})
        mask = jp.masks.make(scores, None, pattern=pattern, allocation=allocation)
        assert int(mask["conv"].sum()) == 54

    def test_all_of_all_removes_nothing(self):
        scores = {"w": random_scores(4, 2)}
        assert jp.masks.make(scores, None, pattern=nm(4, 4, axis=0))["w"].all()

    def test_nan_is_named(self):
        scores = {"w": jnp.array([[1.0], [jnp.nan], [2.0], [3.0]])}
        with pytest.raises(ValueError, match="scores of 'w' hold NaN"):
            jp.masks.make(scores, None, pattern=nm(2, 4, axis=0))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n": 0, "m": 4, "axis": 0}, "0 < n <= m; got 0:4"),
            ({"n": 5, "m": 4, "axis": 0}, "got 5:4"),
            ({"n": 2, "m": 4}, "pass either axis="),
            ({"n": 2, "m": 4, "axis": 0, "layout": "flax"}, "pass either axis="),
            ({"n": 2, "m": 4, "layout": "torch"}, "layout is 'flax', 'haiku' or 'equinox'"),
            ({"n": 2, "m": 4, "axis": 0, "remainder": "drop"}, "remainder is 'error', 'dense' or"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            nm(**arguments)

    def test_an_axis_that_does_not_exist(self):
        with pytest.raises(ValueError, match=r"names axis 2 of 'w', whose shape is \(4, 2\)"):
            jp.masks.make({"w": random_scores(4, 2)}, None, pattern=nm(2, 4, axis=2))
        with pytest.raises(ValueError, match="names axis -2 of 'w'"):
            jp.masks.make({"w": random_scores(4)}, None, pattern=nm(2, 4, layout="flax"))


class TestGroups:
    @pytest.mark.parametrize("norm", ["l1", "l2", "max", "mean"])
    def test_block_norms(self, norm):
        scores = jnp.array([[3.0, 0, 2, 2, 0, 4], [0, 0, 0, 0, 0, 0]])
        # l1: 3 4 4; l2: 3 2.83 4; max: 3 2 4; mean: 3/4 1 1.
        first = {"l1": 0, "l2": 1, "max": 1, "mean": 0}[norm]
        mask = jp.masks.make({"w": scores}, 1 / 3, pattern=block(2, 2, norm=norm))["w"]
        assert [bool(mask[:, 2 * i : 2 * i + 2].any()) for i in range(3)] == [
            i != first for i in range(3)
        ]

    @pytest.mark.parametrize("norm", ["l1", "l2", "max", "mean"])
    def test_shapes_are_enough_to_count(self, norm):
        like = {"w": jax.ShapeDtypeStruct((3, 8), jnp.float32)}
        rules = {"allocation": jp.masks.uniform(), "pattern": channels(norm=norm)}
        assert leaf_counts(like, 0.25, **rules) == ((8,), (2,))
        assert count_removed(like, 0.25, **rules) == 2
        assert count_removed(like, 0.25, pattern=nm(3, 4, axis=1)) == 6

    def test_block_axes(self):
        scores = jnp.round(random_scores(4, 3, 6), 1) + 5
        mask = jp.masks.make({"w": scores}, 0.5, pattern=block(2, 3, axes=(0, 2)))["w"]
        turned = jp.masks.make({"w": scores}, 0.5, pattern=block(3, 2, axes=(-1, 0)))["w"]
        np.testing.assert_array_equal(mask, turned)
        jp.masks.check({"w": mask}, block(2, 3, axes=(0, 2)))
        assert int(mask.sum()) == 36

    def test_counts_are_of_blocks_and_channels(self):
        scores = {"a": random_scores(4, 6), "b": random_scores(8, 2, seed=1)}
        mask, info = jp.masks.make_with_info(scores, 0.3, allocation=ALLOW, pattern=block(2, 2))
        assert [int((~m).sum()) for m in jax.tree.leaves(mask)] != [0, 0]
        assert jp.metrics.counts(mask)[0] == 40 - 4 * round(0.3 * 10)
        assert info.counts() == (40 - 4 * 3, 40)
        mask = jp.masks.make(scores, 0.5, allocation=jp.masks.uniform(), pattern=channels())
        assert [int(m.any(axis=0).sum()) for m in jax.tree.leaves(mask)] == [3, 1]

    @pytest.mark.parametrize("axis", [0, 1, -1, lambda path, leaf: 1])
    def test_channel_axes(self, axis):
        scores = random_scores(4, 6, 3)
        mask = jp.masks.make({"w": scores}, 0.5, pattern=channels(axis))["w"]
        own = 1 if callable(axis) else axis % 3
        rows = np.moveaxis(np.asarray(mask), own, 0).reshape(scores.shape[own], -1)
        assert (rows.all(axis=1) | ~rows.any(axis=1)).all()
        assert int((~rows.any(axis=1)).sum()) == round(0.5 * scores.shape[own])

    def test_geometric_median(self):
        params = {"kernel": jnp.array([[0.0, 1.0, 5.0, 1.5]])}
        scores = jp.scores.geometric_median(params)
        mask = jp.masks.make(scores, 0.25, pattern=channels(norm="max"))
        assert mask["kernel"].tolist() == [[True, False, True, True]]  # 7.5 5.5 12.5 5.5... lowest

    def test_remainder(self):
        scores = {"w": 10 - jnp.arange(35.0).reshape(5, 7) / 10}
        with pytest.raises(ValueError, match=r"groups of 2 do not divide axis 0 of 'w'"):
            jp.masks.make(scores, 0.5, pattern=block(2, 2))
        mask = jp.masks.make(scores, 0.5, pattern=block(2, 2, remainder="dense"))["w"]
        assert mask[4].all()
        assert mask[:, 6].all()
        assert int((~mask).sum()) == 12  # 3 of 6 blocks

    def test_a_leaf_smaller_than_a_block_stays(self):
        scores = {"small": random_scores(1, 3), "w": random_scores(4, 4)}
        mask = jp.masks.make(scores, 0.5, pattern=block(2, 2, remainder="dense"))
        assert mask["small"].all()
        assert int(mask["w"].sum()) == 8

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)])
    @pytest.mark.parametrize("axis", [0, -1])
    def test_a_leaf_without_weights_stays(self, shape, axis):
        scores = {"none": jnp.ones(shape), "w": random_scores(4, 8)}
        for allocation in (None, jp.masks.uniform()):
            mask = jp.masks.make(scores, 0.5, allocation=allocation, pattern=channels(axis))
            assert mask["none"].shape == shape
            assert int(mask["w"].sum()) == 16
            jp.masks.check(mask, channels(axis))
        with pytest.raises(ValueError, match="names axis 2 of 'none'"):
            jp.masks.make(scores, 0.5, pattern=channels(2))

    def test_within_counts_what_is_left(self):
        scores = {"w": jnp.array([[1.0, 9.0, 2.0, 3.0], [1.0, 9.0, 2.0, 3.0]])}
        within = {"w": jnp.array([[1, 0, 1, 1], [1, 1, 1, 1]], bool)}
        mask = jp.masks.make(scores, 0.25, within=within, pattern=channels())["w"]
        assert mask.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]  # 2, 9 of 18, 4, 6
        within = {"w": jnp.array([[1, 0, 1, 1], [1, 0, 1, 1]], bool)}
        mask = jp.masks.make(scores, 0.5, within=within, pattern=channels())["w"]
        assert mask.tolist() == [[0, 0, 1, 1]] * 2  # one channel was gone, one more goes
        with pytest.warns(UserWarning, match="removes nothing"):
            jp.masks.make(scores, 0.25, within=within, pattern=channels())
        with pytest.raises(ValueError, match=r"removes 0 groups.* has removed 1 already"):
            jp.masks.make(scores, 0.0, within=within, pattern=channels())

    def test_errors(self):
        w = {"w": random_scores(4, 4)}
        with pytest.raises(ValueError, match="a length of a block is 0, but must be at least 1"):
            block(0, 2)
        with pytest.raises(TypeError, match="a length of a block must be a static Python integer"):
            block(2, 1.5)
        with pytest.raises(ValueError, match=r"one length an axis; got lengths \(2, 2\) for axes"):
            block(2, 2, axes=(0, 1, 2))
        for factory in (lambda **k: block(2, 2, **k), channels):
            with pytest.raises(ValueError, match="norm is 'l1', 'l2', 'max' or 'mean'; got 'l3'"):
                factory(norm="l3")
        with pytest.raises(ValueError, match="remainder is 'error', 'dense' or 'pad'"):
            block(2, 2, remainder="drop")
        with pytest.raises(ValueError, match=r"names axis 2 of 'w', of shape \(4, 4\)"):
            jp.masks.make(w, 0.5, pattern=channels(2))
        with pytest.raises(ValueError, match="names axis -2 of 'v'"):
            jp.masks.make({"v": random_scores(4)}, 0.5, pattern=block(2, 2))
        with pytest.raises(ValueError, match="no weight is left of 'w'"):
            jp.masks.make(w, 0.9, pattern=channels())
        with pytest.raises(TypeError, match="pattern must be a function or None"):
            jp.masks.make(w, 0.5, pattern="2:4")
        with pytest.raises(TypeError, match="gives a PatternSpec or None; got 4 for 'w'"):
            jp.masks.make(w, 0.5, pattern=lambda path, leaf: 4)


def padded(x, shape, value):
    return np.pad(
        x, [(0, n - m) for n, m in zip(shape, x.shape, strict=True)], constant_values=value
    )


PADDED = {
    "2:4": (None, lambda r: nm(2, 4, axis=0, remainder=r), (12, 7)),
    "3:4 last": (None, lambda r: nm(3, 4, axis=-1, remainder=r), (10, 8)),
    "blocks": (0.4, lambda r: block(4, 3, remainder=r), (12, 9)),
    "blocks, l2": (0.4, lambda r: block(4, 3, norm="l2", remainder=r), (12, 9)),
    "blocks, max": (0.4, lambda r: block(4, 3, norm="max", remainder=r), (12, 9)),
    "rows of blocks": (0.3, lambda r: block(3, 1, remainder=r), (12, 7)),
}


class TestPad:
    """A smaller last group is one whose missing weights are pruned already."""

    @pytest.mark.parametrize("nested", [False, True])
    @pytest.mark.parametrize("name", PADDED)
    def test_as_if_the_axis_went_on(self, name, nested):
        sparsity, pattern, whole = PADDED[name]
        scores = np.round(np.abs(np.asarray(random_scores(10, 7))), 1)
        within = np.asarray(random_scores(10, 7, seed=1)) > -1 if nested else np.ones((10, 7), bool)
        tree = {"w": jnp.asarray(scores)}
        given = {"w": jnp.asarray(within)} if nested else None
        mask = jp.masks.make(tree, sparsity, within=given, pattern=pattern("pad"))["w"]
        expected = jp.masks.make(
            {"w": jnp.asarray(padded(scores, whole, 0.0))},
            sparsity,
            within={"w": jnp.asarray(padded(within, whole, False))},
            pattern=pattern("error"),
        )["w"]
        np.testing.assert_array_equal(mask, expected[:10, :7])
        compiled = jax.jit(
            lambda s, w: jp.masks.make_with_info(s, sparsity, within=w, pattern=pattern("pad"))[0]
        )
        np.testing.assert_array_equal(compiled(tree, given)["w"], mask)
        if not nested:
            jp.masks.check({"w": mask}, pattern("pad"))
            removed = jp.masks.count_removed(tree, sparsity, pattern=pattern("pad"))
            entries = jp.masks.counts_in({"w": mask}, pattern=pattern("pad")).removed[0]
            assert removed == (int((~mask).sum()) if sparsity is None else entries)

    def test_a_mean_is_over_the_weights_that_are_there(self):
        scores = {"w": jnp.array([[1.0, 1.0, 0.9]])}
        mask = jp.masks.make(scores, 0.5, pattern=block(1, 2, norm="mean", remainder="pad"))["w"]
        assert mask.tolist() == [[True, True, False]]
        mask = jp.masks.make(scores, 0.5, pattern=block(1, 2, norm="l1", remainder="pad"))["w"]
        assert mask.tolist() == [[True, True, False]]

    def test_a_broken_group_is_found(self):
        mask = {"w": jnp.array([[True, True, False, True, False]])}
        with pytest.raises(ValueError, match=r"group \(0, 1\) keeps 1 of 2"):
            jp.masks.check(
                {"w": jnp.array([[False] * 3 + [True, False]])}, block(1, 3, remainder="pad")
            )
        with pytest.raises(ValueError, match=r"group \(0, 0\) keeps 2 of 3"):
            jp.masks.check(mask, block(1, 3, remainder="pad"))
        mask = jnp.array([[True] + [False] * 3 + [True] * 2])
        with pytest.raises(ValueError, match=r"keeps 2 of 2"):
            jp.masks.check({"w": mask}, nm(1, 4, axis=1, remainder="pad"))


def test_blocks_of_three_axes():
    scores = np.abs(np.asarray(random_scores(4, 6, 4)))
    mask = jp.masks.make({"w": jnp.asarray(scores)}, 0.5, pattern=block(2, 3, 2))["w"]
    sums = scores.reshape(2, 2, 2, 3, 2, 2).sum(axis=(1, 3, 5))
    kept = sums > np.sort(sums.ravel())[3]
    np.testing.assert_array_equal(mask, kept.repeat(2, 0).repeat(3, 1).repeat(2, 2))
    outer = jp.masks.make({"w": jnp.asarray(scores)}, 0.5, pattern=block(2, 2, axes=(0, -1)))["w"]
    jp.masks.check({"w": outer}, block(2, 2, axes=(0, -1)))


class TestSpecs:
    """Patterns that a user writes."""

    def test_three_axes(self):
        scores = {"w": random_scores(2, 4, 6)}
        pattern = lambda path, leaf: PatternSpec((2, 0, 1), (3, 2, 2))  # noqa: E731
        mask = jp.masks.make(scores, 0.5, pattern=pattern)["w"]
        assert int(mask.sum()) == 24
        jp.masks.check({"w": mask}, pattern)

    def test_some_kept_of_a_block(self):
        scores = random_scores(4, 4)
        pattern = lambda path, leaf: PatternSpec((0, 1), (2, 2), kept=1)  # noqa: E731
        for sparsity in (None, 0.75):
            mask = jp.masks.make({"w": scores}, sparsity, pattern=pattern)["w"]
            for group in oracle.groups_along((4, 4), [0, 1], [2, 2]):
                best = max(group, key=lambda i: float(scores[i]))
                assert [i for i in group if mask[i]] == [best]
        with pytest.raises(ValueError, match=r"fixes the sparsity, 0\.75; got 0\.5"):
            jp.masks.make({"w": scores}, 0.5, pattern=pattern)

    @pytest.mark.parametrize(
        "spec",
        [
            PatternSpec((0, 0), (2, 2)),
            PatternSpec((1, -1), (2, 2)),
            PatternSpec((0, 1), (2,)),
            PatternSpec((0, 1), (2, 0)),
            PatternSpec((0,), (2,), kept=3),
            PatternSpec((0,), (2,), kept=0),
            PatternSpec((0, 1), (2, 2), norm="l3"),
        ],
    )
    def test_specs_that_make_no_sense_name_the_leaf(self, spec):
        with pytest.raises(ValueError, match="'w'"):
            jp.masks.make(
                {"w": random_scores(4, 4)},
                0.5 if spec.kept is None else None,
                pattern=lambda path, leaf: spec,
            )


class TestCheck:
    def test_masks_that_break_it(self):
        mask = jnp.ones((4, 4), bool).at[3, 1].set(False)
        tree = {"a": {"w": mask, "b": None}}
        with pytest.raises(ValueError, match=r"'a/w' is not 2:4 along axis 0: .*\(0, 0\) keeps 4"):
            jp.masks.check(tree, nm(2, 4, axis=0))
        with pytest.raises(ValueError, match=r"'a/w' is not in groups of 2x2 along axes \(0, 1\)"):
            jp.masks.check(tree, block(2, 2))
        with pytest.raises(ValueError, match=r"group \(1, 0\) keeps 3 of 4"):
            jp.masks.check(tree, block(2, 2))
        with pytest.raises(ValueError, match=r"keeps 3 of 4"):
            jp.masks.check(tree, channels())
        with pytest.raises(ValueError, match="do not divide"):
            jp.masks.check(tree, block(3, 3))
        with pytest.raises(TypeError, match="'w' has dtype float32"):
            jp.masks.check({"w": jnp.ones((4, 4))}, nm(2, 4, axis=0))
        with pytest.raises(TypeError, match="pattern is a function"):
            jp.masks.check(tree, "2:4")

    def test_masks_that_have_it(self):
        jp.masks.check({"w": jnp.zeros((4, 4), bool)}, nm(2, 4, axis=0))  # fewer is fine
        jp.masks.check({"w": jnp.ones((5, 4), bool)}, block(2, 2, remainder="dense"))
        jp.masks.check({"w": jnp.ones((5, 4), bool).at[4, 0].set(False), "b": None},
                       block(2, 2, remainder="dense"))  # fmt: skip
        jp.masks.check({"w": jnp.ones((5, 4), bool)}, lambda path, leaf: None)


@pytest.mark.parametrize("pattern", [nm(2, 4, axis=0), block(2, 2), channels(-1, norm="mean")])
def test_vmap_and_jit(pattern):
    stacked = {"a": random_scores(3, 8, 4), "b": random_scores(3, 4, 6, seed=1)}
    sparsity = None if pattern("w", stacked["a"]).kept else 0.4
    make = lambda s: jp.masks.make(s, sparsity, allocation=ALLOW, pattern=pattern)  # noqa: E731
    together, in_jit = jax.vmap(make)(stacked), jax.jit(jax.vmap(make))(stacked)
    for i in range(3):
        alone = make(jax.tree.map(lambda x, i=i: x[i], stacked))
        for name in stacked:
            np.testing.assert_array_equal(together[name][i], alone[name])
            np.testing.assert_array_equal(in_jit[name][i], alone[name])
