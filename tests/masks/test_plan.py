"""Masks of a planned list of sparsities: those that `make` gives outside of compiled code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxprune import masks
from tests import quick

TARGETS = (0.2, 0.55, 0.7)
ALLOCATIONS = {
    "globally": masks.globally(),
    "globally_limited": masks.globally(min_sparsity=0.1, max_sparsity=0.8),
    "uniform": masks.uniform(),
    "uniform_plus": masks.uniform_plus(first="", last="out"),
    "erk": masks.erk(),
    "lamp": masks.lamp(),
}
PATTERNS = {"weights": None, "block": masks.block(2, 2), "channels": masks.channels(-1)}
COMBINATIONS = [
    *((allocation, "weights") for allocation in ALLOCATIONS),
    ("globally", "block"),
    ("uniform", "channels"),
]


def make_scores(seed=0):
    """Scores of several dtypes, with ties: bfloat16 has few values."""
    rng = np.random.default_rng(seed)
    return {
        "conv": {"w": jnp.asarray(rng.gamma(2.0, size=(3, 3, 2, 8)), jnp.float32), "bias": None},
        "out": jnp.asarray(rng.gamma(1.0, size=(12, 10)), jnp.bfloat16),
    }


def dense():
    return jax.tree.map(lambda x: jnp.ones(x.shape, bool), make_scores())


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(assert_array_equal, a, b)


def gone(mask):
    return sum(int((~np.asarray(m)).sum()) for m in jax.tree.leaves(mask))


@pytest.mark.parametrize(("allocation", "pattern"), COMBINATIONS)
def test_compiled_code_makes_the_masks_of_make(allocation, pattern):
    options = {"allocation": ALLOCATIONS[allocation], "pattern": PATTERNS[pattern]}
    plan = masks.plan(jax.eval_shape(make_scores), TARGETS, **options)
    traced = []

    def make(scores, index, within):
        traced.append(1)
        return plan.make(scores, index, within=within)

    compiled = jax.jit(make, compiler_options=quick.OPTIONS)
    within = expected = dense()
    before = 0
    for i, target in enumerate(TARGETS):
        scores = make_scores(seed=i)  # the order changes from one prune to the next
        within = compiled(scores, jnp.int32(i), within)
        expected, _ = masks.make_with_info(scores, target, within=expected, **options)
        assert_same(within, expected)
        assert gone(within) > before
        before = gone(within)
    assert len(traced) == 1


def test_totals_are_exact():
    plan = masks.plan(jax.eval_shape(make_scores), TARGETS)
    make = jax.jit(plan.make, compiler_options=quick.OPTIONS)
    total = 3 * 3 * 2 * 8 + 12 * 10
    assert [gone(make(make_scores(), i)) for i in range(3)] == [round(t * total) for t in TARGETS]


def test_an_index_past_an_end_means_the_last_or_the_first():
    scores = {"w": jnp.asarray([[0.3, 0.1], [0.2, 0.9]])}
    plan = masks.plan(scores, (0.25, 0.5))
    assert [gone(plan.make(scores, i)) for i in (-1, 0, 1, 2, 2**31 - 1)] == [1, 1, 2, 2, 2]


def test_a_target_for_each_n_m_pattern_is_none():
    rng = np.random.default_rng(0)
    scores = {"a": jnp.asarray(rng.gamma(2.0, size=(8, 4)), jnp.float32), "b": jnp.ones((5, 5))}
    pattern = masks.nm(2, 4, axis=0)

    def only_a(path, leaf):
        return pattern(path, leaf) if path == "a" else None

    plan = masks.plan(scores, (None,), pattern=only_a)
    found = jax.jit(plan.make, compiler_options=quick.OPTIONS)(scores, 0)
    assert_same(found, masks.make(scores, None, pattern=only_a))
    masks.check({"a": found["a"]}, pattern)
    assert found["b"].all()


def test_what_traced_code_cannot_raise_has_its_written_result():
    scores = {"w": jnp.asarray([[jnp.nan, 0.1], [0.2, 0.9]])}
    plan = masks.plan(scores, (0.25, 0.5))
    within = {"w": jnp.asarray([[True, False], [False, False]])}
    # Sparser than the target already: returned as it is. NaN is kept.
    assert_same(plan.make(scores, 0, within=within), within)
    assert plan.make(scores, 1)["w"].tolist() == [[True, False], [False, True]]


def test_it_keeps_the_targets_as_given():
    assert masks.plan({"w": jnp.ones((2, 2))}, [0.25, 0.5]).sparsities == (0.25, 0.5)


@pytest.mark.parametrize(
    ("sparsities", "options", "message"),
    [
        ((), {}, r"sparsities is empty; name at least one"),
        ((0.5, 1.0), {}, r"1\.0"),
        ((-0.5,), {}, r"-0\.5"),
        ((0.5,), {"pattern": masks.nm(2, 4, axis=0)}, r"'w'"),
        ((0.3,), {"allocation": masks.globally(min_sparsity=0.5)}, r"0\.3|0\.5"),
        ((0.6, 0.3), {"allocation": masks.per_leaf({"other": 0.5})}, r"other"),
    ],
)
def test_what_cannot_be_is_refused_when_planned(sparsities, options, message):
    with pytest.raises(ValueError, match=message):
        masks.plan({"w": jnp.ones((6, 4))}, sparsities, **options)


def test_targets_are_counted_once_for_the_same_shapes():
    counted = []

    def allocation(scores, within):
        scores, pools = masks.uniform()(scores, within)

        def counts(sparsity, sizes):
            counted.append(sparsity)
            return pools.counts(sparsity, sizes)

        return scores, pools._replace(counts=counts)

    scores = {"w": jnp.arange(24.0).reshape(6, 4), "b": None}
    for _ in range(2):  # as where a step is traced again
        plan = masks.plan(jax.eval_shape(lambda: scores), TARGETS, allocation=allocation)
        assert [gone(plan.make(scores, i)) for i in range(3)] == [5, 13, 17]
    assert counted == list(TARGETS)
    # Other shapes, though of another tree, are counted for themselves.
    assert gone(plan.make({"w": jnp.ones((4, 4)), "b": None}, 1)) == 9
    assert counted == [*TARGETS, *TARGETS]
    # A flag is no number, though True == 1 and False == 0.
    masks.plan(scores, (0,))
    with pytest.raises(TypeError, match="got False"):
        masks.plan(scores, (False,))


def test_an_allocation_that_cannot_be_hashed():
    class Rule:
        __hash__ = None

        def __call__(self, scores, within):
            return masks.uniform()(scores, within)

    scores = {"w": jnp.arange(24.0).reshape(6, 4)}
    assert gone(masks.plan(scores, (0.5,), allocation=Rule()).make(scores, 0)) == 12


def test_kinds():
    with pytest.raises(TypeError, match="'w' is of dtype int32"):
        masks.plan({"w": jnp.ones((6, 4), jnp.int32)}, (0.5,))
    with pytest.raises(TypeError, match="number"):
        masks.plan({"w": jnp.ones((6, 4))}, ("0.5",))
    with pytest.raises(TypeError, match="got None"):
        masks.plan({"w": jnp.ones((6, 4))}, (0.5, None))
    plan = masks.plan({"w": jnp.ones((6, 4))}, (0.5,))
    with pytest.raises(ValueError, match=r"another tree.*'w'"):
        plan.make({"w": jnp.ones((6, 4))}, 0, within={"v": jnp.ones((6, 4), bool)})
