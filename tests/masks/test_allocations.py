"""Allocations: hand-computed cases, rules, limits, errors; traced sparsities."""

import functools
import math
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprune as jp
from tests.masks import oracle

SHAPES = {"conv": (2, 1, 3, 4), "mid": (10, 8), "out": (8, 5)}
SIZES = [math.prod(s) for s in SHAPES.values()]  # 24, 80, 40


def scores_of(seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(np.abs(rng.normal(size=s)), jnp.float32) for k, s in shapes.items()}


def removed(mask):
    return [int((~np.asarray(m)).sum()) for m in jax.tree.leaves(mask)]


def make(allocation, sparsity, scores=None, **kwargs):
    return jp.masks.make(
        scores_of() if scores is None else scores, sparsity, allocation=allocation, **kwargs
    )


class TestGlobally:
    def test_a_cap_saves_the_lowest_leaf_and_the_others_make_up(self):
        scores = {"a": jnp.arange(1.0, 11.0), "b": jnp.arange(101.0, 111.0)}
        mask = make(jp.masks.globally(max_sparsity={"a": 0.3}), 0.5, scores)
        assert removed(mask) == [3, 7]
        assert not mask["a"][:3].any()
        assert not mask["b"][:7].any()

    def test_a_floor_takes_from_the_highest_leaf(self):
        scores = {"a": jnp.arange(1.0, 11.0), "b": jnp.arange(101.0, 111.0)}
        assert removed(make(jp.masks.globally(min_sparsity={"b": 0.4}), 0.5, scores)) == [6, 4]

    def test_a_number_holds_for_every_leaf(self):
        scores = {"a": jnp.arange(1.0, 11.0), "b": jnp.arange(101.0, 111.0)}
        allocation = jp.masks.globally(max_sparsity=0.6, min_sparsity=0.2)
        assert removed(make(allocation, 0.5, scores)) == [6, 4]
        assert removed(make(allocation, 0.2, scores)) == [2, 2]
        assert removed(make(allocation, 0.6, scores)) == [6, 6]

    def test_a_tree_of_limits(self):
        scores = {"x": {"a": jnp.arange(1.0, 11.0), "b": None}, "y": jnp.arange(101.0, 111.0)}
        limits = {"x": {"a": 0.1, "b": None}, "y": None}
        assert removed(make(jp.masks.globally(max_sparsity=limits), 0.5, scores)) == [1, 9]

    @pytest.mark.parametrize("sparsity", [0.1, 0.8])
    def test_limits_that_do_not_allow_the_total(self, sparsity):
        allocation = jp.masks.globally(max_sparsity=0.6, min_sparsity=0.2)
        with pytest.raises(ValueError, match=r"cannot add up: .*allow from 29 to 86"):
            make(allocation, sparsity)

    def test_limits_that_cross_name_the_leaf(self):
        allocation = jp.masks.globally(min_sparsity=0.5, max_sparsity={"mid": 0.3})
        with pytest.raises(ValueError, match=r"min_sparsity 0.5 .*'mid'.* max_sparsity 0.3"):
            make(allocation, 0.4)

    def test_a_floor_that_within_has_used_up_is_refused(self):
        # 8 are gone of `a`, 5 of `b` must go, and only 10 may in all: nothing can hold all three.
        scores = {"a": jnp.arange(10.0), "b": jnp.arange(10.0)}
        within = {"a": jnp.arange(10) >= 8, "b": jnp.ones(10, bool)}
        with pytest.raises(ValueError, match="'b'"):
            make(jp.masks.globally(min_sparsity=0.5), 0.5, scores, within=within)

    def test_a_cap_that_within_lies_above_is_refused(self):
        scores = {"a": jnp.arange(10.0), "b": jnp.arange(10.0)}
        within = {"a": jnp.arange(10) >= 8, "b": jnp.ones(10, bool)}
        with pytest.raises(ValueError, match="'a'"):
            make(jp.masks.globally(max_sparsity=0.5), 0.45, scores, within=within)


class TestUniform:
    def test_each_leaf_by_its_own_rounding(self):
        assert removed(make(jp.masks.uniform(), 0.33)) == [8, 26, 13]

    def test_limits_hold_the_total(self):
        mask = make(jp.masks.uniform(max_sparsity={"mid": 0.25}), 0.5)
        assert removed(mask) == [19, 20, 33]  # 4.5 and 7.5 stay: the first rounds up

    def test_a_floor(self):
        mask = make(jp.masks.uniform(min_sparsity={"out": 0.9}), 0.5)
        assert removed(mask) == [8, 28, 36]  # 36 of 104: 8.3 and 27.7


class TestUniformPlus:
    def test_found_by_shape(self):
        scores = scores_of(shapes={"conv": (3, 3, 2, 2), "mid": (3, 3, 4, 4), "out": (4, 5)})
        mask = make(jp.masks.uniform_plus(), 0.7, scores)  # 140 of 200, 16 of the last at most
        assert removed(mask) == [0, 124, 16]

    def test_below_its_limit_the_last_layer_is_as_the_others(self):
        scores = scores_of(shapes={"conv": (3, 3, 2, 2), "mid": (3, 3, 4, 4), "out": (4, 5)})
        assert removed(make(jp.masks.uniform_plus(), 0.41, scores)) == [0, 72, 10]

    @pytest.mark.parametrize(
        ("first", "last"), [("conv", "out"), ("c.nv", ".*t"), ("conv", None), (None, "out")]
    )
    def test_named(self, first, last):
        shapes = {"conv": (1, 2, 4), "mid": (10, 8) if last else (2, 5, 8), "out": (8, 5)}
        scores = scores_of(shapes=shapes)
        mask = make(jp.masks.uniform_plus(first=first, last=last), 0.5, scores)
        assert removed(mask) == [0, 43, 21]  # 64 of 120, two thirds and one third

    def test_none_at_all(self):
        mask = make(jp.masks.uniform_plus(first="", last=""), 0.5)
        assert removed(mask) == [12, 40, 20]

    def test_other_share_of_the_last(self):
        mask = make(jp.masks.uniform_plus(first="conv", last="out", last_max_sparsity=0.5), 0.6)
        assert removed(mask) == [0, 66, 20]

    def test_ambiguous_layers_have_to_be_named(self):
        with pytest.raises(ValueError, match=r"the last dense layer .* 'mid', 'out'.*last=PATH"):
            make(jp.masks.uniform_plus(), 0.5)
        scores = scores_of(shapes={"a": (3, 3, 4, 4), "b": (3, 3, 4, 2)})
        with pytest.raises(ValueError, match=r"the first convolution .* 'a', 'b'.*first=PATH"):
            make(jp.masks.uniform_plus(), 0.5, scores)

    def test_one_input_channel_is_a_stem_or_a_depthwise_kernel(self):
        grey = {"conv": (3, 3, 1, 8), "mid": (3, 3, 8, 8)}
        assert removed(make(jp.masks.uniform_plus(), 0.4, scores_of(shapes=grey)))[0] == 0
        mobile = {"stem": (3, 3, 3, 8), "depthwise": (3, 3, 1, 8), "pointwise": (1, 1, 8, 16)}
        with pytest.raises(
            ValueError, match=r"the first convolution .* 'depthwise', 'stem'\. Name it: first=PATH"
        ):
            make(jp.masks.uniform_plus(), 0.4, scores_of(shapes=mobile))
        mask = make(jp.masks.uniform_plus(first="stem"), 0.4, scores_of(shapes=mobile))
        assert mask["stem"].all()
        assert not mask["depthwise"].all()

    def test_errors(self):
        with pytest.raises(ValueError, match=r"first='convs' must match one .* matches none"):
            make(jp.masks.uniform_plus(first="convs", last="out"), 0.5)
        with pytest.raises(ValueError, match=r"last='\.\*' must match one .*'conv', 'mid', 'out'"):
            make(jp.masks.uniform_plus(last=".*"), 0.5)
        with pytest.raises(
            ValueError, match=r"uniform_plus\(\): last has the rule 'd\(', .* regular expression"
        ):
            make(jp.masks.uniform_plus(last="d("), 0.5)
        with pytest.raises(ValueError, match="cannot add up"):
            make(jp.masks.uniform_plus(last="out"), 0.9)
        for bad in (-0.1, 1.5, math.nan):
            with pytest.raises(ValueError, match=r"last_max_sparsity lies in \[0, 1\]"):
                jp.masks.uniform_plus(last_max_sparsity=bad)


def erk_density(shapes, sizes, total):
    """e by bisection, in floats."""
    rule = [sum(s) / math.prod(s) for s in shapes]
    low, high = 0.0, 1e9
    for _ in range(300):
        e = (low + high) / 2
        kept = sum(min(1.0, e * r) * n for r, n in zip(rule, sizes, strict=True))
        low, high = (e, high) if kept < total else (low, e)
    return [min(1.0, low * r) for r in rule]


class TestErk:
    @pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.5, 0.75, 0.9, 0.96])
    def test_against_bisection(self, sparsity):
        lost = removed(make(jp.masks.erk(on_collapse="allow"), sparsity))
        total = sum(SIZES) - oracle.exact_count(sparsity, sum(SIZES))
        densities = erk_density(SHAPES.values(), SIZES, total)
        real = [d * n for d, n in zip(densities, SIZES, strict=True)]
        assert [n - k for n, k in zip(SIZES, lost, strict=True)] == oracle.largest_remainder(
            [Fraction(x) for x in real], total, Fraction(1, 10**9)
        )

    def test_of_one_shape_is_uniform(self):
        scores = scores_of(shapes={"a": (4, 5), "b": (5, 4), "c": (20, 1)[::-1]})
        lost = removed(make(jp.masks.erk(), 0.5, scores))
        assert lost[0] == lost[1] > lost[2]

    def test_small_leaves_stay_dense(self):
        scores = scores_of(shapes={"a": (2, 2), "b": (3, 3), "c": (30, 30)})
        lost = removed(make(jp.masks.erk(), 0.5, scores))
        assert lost[:2] == [0, 0]
        assert sum(lost) == round(0.5 * 913)

    def test_power_zero_is_uniform_with_an_exact_total(self):
        assert removed(make(jp.masks.erk(power=0), 0.5)) == [12, 40, 20]

    def test_limits(self):
        lost = removed(make(jp.masks.erk(max_sparsity={"mid": 0.5}), 0.5))
        assert lost[1] == 40
        assert sum(lost) == 72
        lost = removed(make(jp.masks.erk(min_sparsity={"conv": 0.75}), 0.5))
        assert lost[0] == 18
        assert sum(lost) == 72

    def test_layouts_agree(self):
        turned = {"conv": (4, 3, 2, 1), "mid": (8, 10), "out": (5, 8)}
        assert removed(make(jp.masks.erk(), 0.7)) == removed(
            make(jp.masks.erk(), 0.7, scores_of(shapes=turned))
        )

    def test_a_power_beyond_floats(self):
        with pytest.raises(ValueError, match=r"in proportion to 0\.0.* a power closer to 1"):
            make(jp.masks.erk(power=3000), 0.5)

    @pytest.mark.parametrize("power", [-1.0, math.inf, math.nan])
    def test_bad_power(self, power):
        with pytest.raises(ValueError, match="power is an exponent"):
            jp.masks.erk(power=power)


class TestPerLeaf:
    @pytest.mark.parametrize(
        "rules",
        [
            {"conv": 0.25, "mid": 0.5, "out": 0.75},
            [("conv", 0.25), ("mid", 0.5), (".*", 0.75)],
            (("c.*", 0.25), ("[m].d", 0.5), ("o|out", 0.75)),
            {"conv": 0.25, "mid": 0.5, ".*": 0.75},
        ],
    )
    @pytest.mark.parametrize("sparsity", [None, 76 / 144])
    def test_all_named(self, rules, sparsity):
        assert removed(make(jp.masks.per_leaf(rules), sparsity)) == [6, 40, 30]

    def test_the_first_rule_that_matches_counts(self):
        rules = [(".*", 0.5), ("conv", 0.25)]
        assert removed(make(jp.masks.per_leaf(rules), None)) == [12, 40, 20]

    def test_rules_match_whole_paths(self):
        scores = {"a": scores_of()["mid"], "aa": scores_of()["out"]}
        assert removed(make(jp.masks.per_leaf({"a": 0.5}), None, scores)) == [40, 0]

    def test_a_tree(self):
        scores = {"x": {"w": jnp.arange(8.0), "b": None}, "y": [jnp.arange(4.0), jnp.arange(10.0)]}
        tree = {"x": {"w": 0.5, "b": None}, "y": [0.25, None]}
        assert removed(make(jp.masks.per_leaf(tree), None, scores)) == [4, 1, 0]
        assert removed(make(jp.masks.per_leaf(tree), 0.5, scores)) == [4, 1, 6]

    def test_a_path_need_be_no_regular_expression(self):
        scores = {"w(": jnp.arange(8.0), "v": jnp.arange(4.0)}
        assert removed(make(jp.masks.per_leaf({"w(": 0.5}), None, scores)) == [0, 4]

    def test_the_rest_shares(self):
        assert removed(make(jp.masks.per_leaf({"mid": 0.1}), 0.4)) == [19, 8, 31]  # 58; 50 of 64

    def test_halves_round_to_even(self):
        scores = {"a": jnp.arange(5.0), "b": jnp.arange(7.0)}
        assert removed(make(jp.masks.per_leaf({".*": 0.5}), None, scores)) == [2, 4]

    def test_everything_may_go(self):
        allocation = jp.masks.per_leaf({"mid": 1.0, ".*": 0}, on_collapse="allow")
        assert removed(make(allocation, None)) == [0, 80, 0]
        with pytest.raises(ValueError, match="no weight is left of 'mid'"):
            make(jp.masks.per_leaf({"mid": 1.0}), None)

    def test_errors(self):
        named = jp.masks.per_leaf({"conv": 0.25, "mid": 0.5, "out": 0.75})
        with pytest.raises(ValueError, match=r"cannot add up: 0.9 of 144 removes 130.*remove 76"):
            make(named, 0.9)
        with pytest.raises(ValueError, match="cannot add up"):
            make(jp.masks.per_leaf({"mid": 0.9}), 0.1)
        with pytest.raises(ValueError, match="traced total has nothing to say; pass sparsity=None"):
            jax.jit(lambda p: make(named, p))(jnp.float32(0.5))


@pytest.mark.parametrize(
    ("name", "factory"),
    [
        ("per_leaf", jp.masks.per_leaf),
        ("max_sparsity", lambda x: jp.masks.globally(max_sparsity=x)),
        ("min_sparsity", lambda x: jp.masks.uniform(min_sparsity=x)),
        ("max_sparsity", lambda x: jp.masks.erk(max_sparsity=x)),
        ("max_sparsity", lambda x: jp.masks.lamp(max_sparsity=x)),
    ],
)
def test_bad_rules(name, factory):
    with pytest.raises(ValueError, match=f"{name} has the rule 'convs'.* no prunable leaf.*'conv'"):
        make(factory({"convs": 0.5, "mid": 0.5}), 0.5)
    with pytest.raises(ValueError, match=rf"{name} has the rule 'co\(', .* nor a regular"):
        make(factory({"co(": 0.5}), 0.5)
    with pytest.raises(ValueError, match=rf"{name} holds fractions removed in \[0, 1\]; got 50"):
        make(factory({"mid": 50}), 0.5)
    with pytest.raises(ValueError, match=r"got -0.1"):
        make(factory([("mid", -0.1)]), 0.5)
    with pytest.raises(ValueError, match="got nan"):
        make(factory({"mid": math.nan}), 0.5)
    with pytest.raises(TypeError, match=f"{name} "):
        make(factory({"mid": "half"}), 0.5)
    with pytest.raises(TypeError, match=f"{name} "):
        make(factory([("mid", True)]), 0.5)
    with pytest.raises(TypeError, match=f"{name} is a number, rules .* got str"):
        make(factory("mid"), 0.5)
    with pytest.raises(TypeError, match=f"{name} is a number, rules .* got dict"):
        make(factory({}), 0.5)
    with pytest.raises(ValueError, match=f"{name} has the rule 'x/y'"):
        make(factory({"x": {"y": 0.5}, "mid": 0.5}), 0.5)


FACTORIES = [
    jp.masks.globally,
    functools.partial(jp.masks.globally, max_sparsity=1.0),
    jp.masks.uniform,
    functools.partial(jp.masks.erk, power=0),
    functools.partial(jp.masks.per_leaf, {"mid": 0.99}),
    functools.partial(jp.masks.uniform_plus, first="", last=""),
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_collapse_is_named_warned_or_allowed(factory):
    scores = {"mid": jnp.ones((1, 1)), "rest": 1 + jnp.ones((2, 6))}
    sparsity = 0.5 if factory is jp.masks.globally else 0.7
    with pytest.raises(ValueError, match=r"no weight is left of 'mid': .*on_collapse='allow'"):
        make(factory(), sparsity, scores)
    with pytest.warns(UserWarning, match="no weight is left of 'mid'"):
        warned = make(factory(on_collapse="warn"), sparsity, scores)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        allowed = make(factory(on_collapse="allow"), sparsity, scores)
    assert removed(warned) == removed(allowed)
    assert removed(allowed)[0] == 1
    with pytest.raises(ValueError, match="on_collapse is 'error', 'warn' or 'allow'; got 'no'"):
        factory(on_collapse="no")


def test_lamp_refuses_negative_scores():
    scores = {"a": jnp.array([1.0, -1.0]), "b": jnp.array([1.0, 2.0])}
    with pytest.raises(ValueError, match="scores at 'a' are negative"):
        make(jp.masks.lamp(), 0.5, scores)


def test_lamp_counts_what_within_removed_as_zero():
    scores = scores_of()
    within = make(jp.masks.uniform(), 0.5)
    # What went has the highest scores, which must not weigh on the others.
    high = jax.tree.map(lambda s, m: jnp.where(m, s, 1000 + s), scores, within)
    low = jax.tree.map(lambda s, m: jnp.where(m, s, 0 * s), scores, within)
    a = make(jp.masks.lamp(), 0.8, high, within=within)
    b = make(jp.masks.lamp(), 0.8, low, within=within)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


TRACED = {
    "globally": (jp.masks.globally(on_collapse="allow"), 0, 0.99),
    "globally, capped": (
        jp.masks.globally(max_sparsity={"mid": 0.6}, min_sparsity=0.1, on_collapse="allow"),
        0.11,
        0.75,
    ),
    "uniform": (jp.masks.uniform(on_collapse="allow"), 0, 0.99),
    "uniform, capped": (jp.masks.uniform(max_sparsity={"mid": 0.6}, on_collapse="allow"), 0, 0.75),
    "uniform_plus": (jp.masks.uniform_plus(last="out", on_collapse="allow"), 0, 0.75),
    "erk": (jp.masks.erk(on_collapse="allow"), 0, 0.99),
    "erk, capped": (jp.masks.erk(max_sparsity=0.8, on_collapse="allow"), 0, 0.79),
    "lamp": (jp.masks.lamp(on_collapse="allow"), 0, 0.99),
    "per_leaf": (jp.masks.per_leaf({"mid": 0.5}, on_collapse="allow"), 0.3, 0.7),
}


@functools.cache
def compiled(name):
    return jax.jit(functools.partial(jp.masks.make, allocation=TRACED[name][0]))


@pytest.mark.filterwarnings("ignore:this prune removes nothing")
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("globally, capped", "erk") else pytest.param(name, marks=pytest.mark.slow)
        for name in TRACED
    ],
)
@settings(max_examples=15)
@given(st.floats(0, 1), st.integers(0, 5))
def test_a_traced_sparsity_gives_the_mask_of_a_concrete_one(name, share, seed):
    allocation, low, high = TRACED[name]
    sparsity = np.float32(low + share * (high - low))
    scores = scores_of(seed)
    eager = jp.masks.make(scores, float(sparsity), allocation=allocation)
    traced = compiled(name)(scores, jnp.float32(sparsity))
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_traced_total_beyond_the_limits_is_the_nearest_possible():
    scores = scores_of()
    for name, sparsity, total in [
        ("globally, capped", 0.0, 14),
        ("globally, capped", 0.95, 48 + 64),
        ("uniform_plus", 0.99, 80 + 32),
        ("erk, capped", 0.99, 19 + 64 + 32),
    ]:
        assert sum(removed(compiled(name)(scores, jnp.float32(sparsity)))) == total


@pytest.mark.parametrize(
    "factory",
    [
        jp.masks.erk,
        functools.partial(jp.masks.uniform, max_sparsity=0.95),
        functools.partial(jp.masks.uniform_plus, first="", last=""),
        functools.partial(jp.masks.per_leaf, {"tiny": 0.5}),
    ],
)
def test_steps_of_a_rising_sparsity_are_never_refused(factory):
    """Rounded shares need not fall together: a leaf may be asked for less than is gone of it."""
    shapes = {"tiny": (2, 2), "a": (8, 5), "b": (8, 16), "c": (16, 12), "d": (12, 10), "e": (10, 5)}
    scores = scores_of(shapes=shapes)
    n = sum(map(math.prod, shapes.values()))
    allocation, within = factory(on_collapse="allow"), None
    for k in range(5, 400, 3):
        within = make(allocation, k / n, scores, within=within)
        assert sum(removed(within)) == k


@pytest.mark.parametrize("name", ["globally", "globally, capped", "uniform", "lamp"])
def test_within(name):
    allocation, within = TRACED[name][0], None
    for sparsity in (0.3, 0.5, 0.7):
        scores = scores_of(int(10 * sparsity))
        mask = make(allocation, sparsity, scores, within=within)
        if within is not None:
            for new, old in zip(jax.tree.leaves(mask), jax.tree.leaves(within), strict=True):
                assert not (new & ~old).any()
        if name != "uniform":
            assert sum(removed(mask)) == oracle.exact_count(sparsity, sum(SIZES))
        within = mask
    with pytest.raises(ValueError, match="its sparsity is higher"):
        make(allocation, 0.2, within=within)


def test_below_within_names_the_leaf():
    within = make(jp.masks.per_leaf({"mid": 0.9}), None)
    with pytest.raises(
        ValueError, match="removes 40 weights in 'mid', but `within` has removed 72"
    ):
        make(jp.masks.uniform(), 0.5, within=within)


@pytest.mark.parametrize(
    "allocation", [jp.masks.globally, jp.masks.uniform, jp.masks.erk, jp.masks.lamp]
)
def test_each_leaf_keeps_at_least_some_weights(allocation):
    rng = np.random.default_rng(0)
    sizes = {"a": (10, 10), "b": (2, 5), "c": (1, 2), "d": (20, 10)}
    scale = {"a": 1.0, "b": 1e-6, "c": 1e-6, "d": 1.0}
    scores = {
        k: jnp.asarray(scale[k] * np.abs(rng.normal(size=n)), jnp.float32) for k, n in sizes.items()
    }
    total = sum(x.size for x in scores.values())
    for least in (1, {"b": 4, ".*": 2}, {"a": None, "b": 4, "c": 2, "d": None}):
        make = functools.partial(
            jp.masks.make_with_info, allocation=allocation(keep_at_least=least)
        )
        mask, info = make(scores, 0.95)
        kept = {k: int(m.sum()) for k, m in mask.items()}
        assert sum(kept.values()) == total - round(0.95 * total)
        assert kept["b"] >= (1 if least == 1 else 4)
        assert kept["c"] >= (1 if least == 1 else 2)
        info.check()
        same = jax.jit(lambda s, make=make: make(s, 0.95)[0])(scores)
        jax.tree.map(np.testing.assert_array_equal, same, mask)
    if allocation is jp.masks.globally:
        with pytest.raises(ValueError, match=r"no weight is left of 'b', 'c'.*keep_at_least=1"):
            jp.masks.make(scores, 0.95)
        with pytest.raises(ValueError, match="limits of the leaves allow"):
            jp.masks.make(scores, 0.95, allocation=allocation(keep_at_least=50))
        with pytest.raises(TypeError, match=r"keep_at_least holds numbers of weights, integers"):
            jp.masks.make(scores, 0.95, allocation=allocation(keep_at_least=0.5))
        with pytest.raises(ValueError, match=r"at least 0; got -1"):
            jp.masks.make(scores, 0.95, allocation=allocation(keep_at_least={"a": -1}))


def test_uniform_plus_keeps_at_least_some_weights():
    scores = {
        "conv": jnp.ones((3, 3, 3, 4)),
        "mid": jnp.ones((3, 3, 4, 4)) / 100,
        "small": jnp.ones((1, 1, 4, 1)),
        "last": jnp.ones((4, 10)),
    }
    rules = {"first": "conv", "last": "last"}
    mask = jp.masks.make(
        scores, 0.5, allocation=jp.masks.uniform_plus(keep_at_least={"small": 3}, **rules)
    )
    assert int(mask["small"].sum()) == 3
    assert int(mask["conv"].sum()) == 108
