"""Masks: exact counts, ties, nesting, eager and traced, one device and eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune import masks
from tests.masks import oracle

ALLOW = jp.masks.globally(on_collapse="allow")
# Few shapes and dtypes, so that hypothesis varies values and not compilations.
F32, BF16, F16 = jnp.float32, jnp.bfloat16, jnp.float16
KINDS = [
    (((7,),), (F32,)),
    (((3, 4), (5,)), (BF16, BF16)),
    (((2, 3), (1, 1), (4, 2, 2)), (F32, BF16, F32)),
    (((3, 4), (5,)), (F16, F16)),
]
TIES = np.array([0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, 0.5, 1e-40, 3e-8])


@st.composite
def score_trees(draw):
    shapes, dtypes = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tied = draw(st.booleans())
    leaves = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
        values = rng.choice(TIES, shape) if tied else rng.normal(size=shape)
        leaves.append(jnp.asarray(values.astype(np.float32)).astype(dtype))
    return leaves


def as_numpy(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def assert_same(ours, theirs):
    for a, b in zip(as_numpy(ours), theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# A removal of nothing warns, as it should; here it is one of the cases.
@pytest.mark.filterwarnings("ignore:this prune removes nothing")
@given(score_trees(), st.floats(0, 0.999))
def test_global_equals_the_oracle(scores, sparsity):
    n = sum(x.size for x in scores)
    mask = jp.masks.make(scores, sparsity, allocation=ALLOW)
    wide = [np.asarray(x.astype(jnp.float32)) for x in scores]
    assert_same(mask, oracle.remove_lowest(wide, round(sparsity * n)))


@pytest.mark.filterwarnings("ignore:this prune removes nothing")
@given(score_trees(), st.floats(0, 0.999))
def test_uniform_equals_the_oracle_leaf_by_leaf(scores, sparsity):
    mask = jp.masks.make(scores, sparsity, allocation=jp.masks.uniform(on_collapse="allow"))
    for ours, score in zip(as_numpy(mask), scores, strict=True):
        wide = [np.asarray(score.astype(jnp.float32))]
        assert_same([ours], oracle.remove_lowest(wide, round(sparsity * score.size)))


@pytest.mark.filterwarnings("ignore:this prune removes nothing")
@given(score_trees(), st.floats(0, 0.9), st.floats(0, 1), st.integers(0, 2**16))
def test_nesting_equals_the_oracle(scores, first, share, seed):
    n = sum(x.size for x in scores)
    rng = np.random.default_rng(seed)
    others = [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in scores]
    within = jp.masks.make(others, first, allocation=ALLOW)
    second = min(first + (1 - first) * share, 0.999)
    mask = jp.masks.make(scores, second, within=within, allocation=ALLOW)
    for new, old in zip(as_numpy(mask), as_numpy(within), strict=True):
        assert not np.any(new & ~old)
    wide = [np.asarray(x.astype(jnp.float32)) for x in scores]
    assert_same(mask, oracle.remove_lowest(wide, round(second * n), as_numpy(within)))


make_traced = jax.jit(lambda s, p: jp.masks.make(s, p, allocation=ALLOW))
make_static = jax.jit(lambda s, p: jp.masks.make(s, p, allocation=ALLOW), static_argnums=1)


# Compiled once for each kind of tree.
@pytest.mark.filterwarnings("ignore:this prune removes nothing")
@given(score_trees(), st.floats(0, 0.9990234375, width=32))
def test_traced_sparsity_equals_eager(scores, sparsity):
    eager = jp.masks.make(scores, sparsity, allocation=ALLOW)
    assert_same(make_traced(scores, jnp.float32(sparsity)), as_numpy(eager))


# Compiled once for each kind of tree and sparsity.
@given(score_trees(), st.sampled_from([0.0, 0.37]))
def test_jit_equals_eager(scores, sparsity):
    eager = jp.masks.make(scores, sparsity, allocation=ALLOW)
    assert_same(make_static(scores, sparsity), as_numpy(eager))


# Sizes around the limits of float32, int32, uint32 and beyond; each is one compilation.
traced_count = jax.jit(jp.masks.count, static_argnums=1)
SIZES = [1, 3, 1000, 2**16 - 1, 2**24 + 1, 2**31 + 7, 2**32 - 1, 2**32 + 3, 3 * 2**40 + 12345]


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.sampled_from(SIZES), st.floats(0, 1, exclude_max=True, width=32))
def test_traced_count_is_exact(n, sparsity):
    limbs = traced_count(jnp.float32(sparsity), n)
    high, low = map(int, limbs)
    assert high * 2**32 + low == oracle.exact_count(sparsity, n)


@pytest.mark.parametrize(
    ("sparsity", "n", "expected"),
    [
        (0.5, 5, 2),  # halves go to the even neighbour
        (0.5, 7, 4),
        (0.9, 25_502_912, 22_952_621),
        (0.999, 100_000_000, 99_900_000),  # a float32 product is one off
        (0.75, 2**24 + 2, 12_582_914),  # past the integers of float32; 12,582,913.5
        (0.5, 2**33 + 1, 2**32),
        (1e-45, 2**44, 0),
    ],
)
def test_counts(sparsity, n, expected):
    assert jp.masks.count(sparsity, n) == expected


def test_traced_count_outside_the_range_is_total():
    f = jax.jit(jp.masks.count, static_argnums=1)
    for sparsity, expected in [(-0.5, 0), (float("nan"), 0), (1.0, 10), (7.0, 10)]:
        assert list(map(int, f(jnp.float32(sparsity), 10))) == [0, expected]


def test_ties_remove_the_lowest_index_first():
    scores = {"b": jnp.ones((2, 2)), "a": jnp.ones((3,))}  # jax.tree.leaves order: a, then b
    mask = jp.masks.make(scores, 5 / 7, allocation=ALLOW)
    assert mask["a"].tolist() == [False] * 3
    assert mask["b"].tolist() == [[False, False], [True, True]]


def test_signed_zeros_tie_and_denormals_do_not():
    scores = jnp.array([0.0, -0.0, 1e-45, 0.0], jnp.float32)
    assert jp.masks.make([scores], 0.5)[0].tolist() == [False, False, True, True]
    assert jp.masks.make([scores], 0.75)[0].tolist() == [False, False, True, False]


def test_traced_nan_of_either_sign_is_kept_and_noted():
    nan = np.array([np.nan, -np.nan, 1.0, np.inf], np.float32)
    make = jax.jit(lambda s: jp.masks.make_with_info(s, 0.5))
    mask, info = make({"w": jnp.asarray(nan)})
    assert mask["w"].tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match=r"scores of 'w' hold NaN"):
        info.check()


def test_traced_target_below_within_returns_within_and_is_noted():
    within = {"w": jnp.array([True, False, False, False])}
    make = jax.jit(lambda s, m: jp.masks.make_with_info(s, 0.5, within=m))
    mask, info = make({"w": jnp.arange(4.0)}, within)
    assert mask["w"].tolist() == within["w"].tolist()
    with pytest.raises(ValueError, match="removes 2 weights, but `within` has removed 3"):
        info.check()


def test_counts_past_two_to_the_24():
    n = 2**24 + 3
    mask = jp.masks.make([jnp.zeros((n,), jnp.bfloat16)], 0.9)
    assert jp.metrics.counts(mask) == (n - round(0.9 * n), n)
    assert not bool(mask[0][round(0.9 * n) - 1])
    assert bool(mask[0][round(0.9 * n)])


def test_count_arithmetic_past_two_to_the_32():
    from jaxprune._selection import limbs

    a, b = 2**32 + 5, 2**32 - 1
    x, y = (jnp.asarray(limbs.to_limbs(n)) for n in (a, b))
    assert limbs.from_limbs(limbs.add(x, y)) == a + b
    assert limbs.from_limbs(limbs.subtract(x, y)) == a - b
    assert bool(limbs.less(y, x))
    assert not bool(limbs.less(x, y))
    assert not bool(limbs.less(x, x))


def test_vmap_prunes_each_member_of_a_stack():
    stacked = {"w": jax.random.normal(jax.random.key(0), (3, 4, 5))}
    together = jax.vmap(lambda s: jp.masks.make(s, 0.7))(stacked)
    alone = [jp.masks.make({"w": stacked["w"][i]}, 0.7)["w"] for i in range(3)]
    np.testing.assert_array_equal(together["w"], jnp.stack(alone))


@pytest.mark.parametrize("allocation", [jp.masks.globally(), jp.masks.uniform()])
def test_eight_devices_make_the_mask_of_one(allocation):
    scores = {
        "a": jnp.round(jax.random.normal(jax.random.key(0), (16, 24)), 1),  # many ties
        "b": jnp.round(jax.random.normal(jax.random.key(1), (8, 5)), 1),
    }
    alone = jp.masks.make(scores, 0.6, allocation=allocation)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    spread = {
        "a": jax.device_put(scores["a"], NamedSharding(mesh, PartitionSpec("x", "y"))),
        "b": jax.device_put(scores["b"], NamedSharding(mesh, PartitionSpec(("x", "y")))),
    }
    assert_same(jp.masks.make(spread, 0.6, allocation=allocation), as_numpy(alone))


def test_idempotent_but_warned():
    scores = {"w": jnp.arange(10.0)}
    mask = jp.masks.make(scores, 0.3)
    with pytest.warns(UserWarning, match="removes nothing: 3 of 10"):
        again = jp.masks.make(scores, 0.3, within=mask)
    np.testing.assert_array_equal(again["w"], mask["w"])


def test_rounding_to_nothing_is_warned_and_asking_for_nothing_is_not():
    with pytest.warns(UserWarning, match="removes nothing: 0 of 10"):
        jp.masks.make({"w": jnp.arange(10.0)}, 0.01)
    assert jp.sparsity(jp.masks.make({"w": jnp.arange(10.0)}, 0.0)) == 0.0


def test_collapse_is_an_error_a_warning_or_allowed():
    scores = {"a": jnp.zeros((2,)), "b": jnp.ones((6,))}
    with pytest.raises(ValueError, match=r"no weight is left of 'a'.*on_collapse='allow'"):
        jp.masks.make(scores, 0.25)
    with pytest.warns(UserWarning, match="no weight is left of 'a'"):
        jp.masks.make(scores, 0.25, allocation=jp.masks.globally(on_collapse="warn"))
    mask = jp.masks.make(scores, 0.25, allocation=ALLOW)
    assert jp.metrics.counts(mask) == (6, 8)


@pytest.mark.parametrize(
    ("sparsity", "error", "message"),
    [
        (1.0, ValueError, r"in \[0, 1\); got 1.0"),
        (-0.1, ValueError, r"in \[0, 1\); got -0.1"),
        (float("nan"), ValueError, "got nan"),
        (90, ValueError, r"For 90 % pass 0.9"),
        ("0.9", TypeError, "sparsity is a number"),
        (None, TypeError, "sparsity is a number"),
        (True, TypeError, "sparsity is a number"),
    ],
)
def test_bad_sparsity(sparsity, error, message):
    with pytest.raises(error, match=message):
        jp.masks.make({"w": jnp.arange(4.0)}, sparsity)


def test_bad_trees():
    w = jnp.arange(4.0)
    with pytest.raises(ValueError, match="no prunable leaf"):
        jp.masks.make({"w": None}, 0.5)
    with pytest.raises(TypeError, match=r"scores are floating arrays, but 'w' is of dtype int32"):
        jp.masks.make({"w": jnp.arange(4)}, 0.5)
    with pytest.raises(ValueError, match=r"mask `within` has shape \(3,\) at 'w'"):
        jp.masks.make({"w": w}, 0.5, within={"w": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match=r"disagree on what is prunable, first at 'w'"):
        jp.masks.make({"w": w, "v": w}, 0.5, within={"w": None, "v": jnp.ones(4, bool)})
    with pytest.raises(TypeError, match=r"`within` holds boolean arrays .* 'w' has dtype float32"):
        jp.masks.make({"w": w}, 0.5, within={"w": jnp.ones(4)})
    with pytest.raises(ValueError, match=r"scores of 'w' hold NaN"):
        jp.masks.make({"w": jnp.array([1.0, jnp.nan])}, 0.5)
    with pytest.raises(ValueError, match="on_collapse is 'error', 'warn' or 'allow'; got 'maybe'"):
        jp.masks.globally(on_collapse="maybe")
    with pytest.raises(ValueError, match="got 'maybe'"):
        jp.masks.uniform(on_collapse="maybe")


W = jnp.arange(4.0)


@pytest.mark.parametrize("leaf", ["arrays", "shapes"])
@pytest.mark.parametrize(
    ("scores", "within", "error", "message"),
    [
        ({"w": None}, None, ValueError, "no prunable leaf"),
        ({"w": jnp.arange(4)}, None, TypeError, "'w' is of dtype int32"),
        (
            {"w": jnp.ones((0, 4)), "v": jnp.ones((2, 0))},
            None,
            ValueError,
            r"no prunable weight: .* 'v' of shape \(2, 0\)",
        ),
        ({"w": W}, {"w": jnp.ones(3, bool)}, ValueError, r"`within` has shape \(3,\) at 'w'"),
        ({"w": W}, {"v": jnp.ones(4, bool)}, ValueError, "`within` is of another tree"),
        ({"w": W}, {"w": None}, ValueError, "disagree on what is prunable, first at 'w'"),
        (
            {"w": W},
            {"w": jnp.ones(4)},
            TypeError,
            r"`within` holds boolean arrays .* 'w' has dtype float32",
        ),
    ],
)
def test_a_check_without_values_raises_what_make_raises(scores, within, error, message, leaf):
    if leaf == "shapes":
        scores, within = jax.eval_shape(lambda: (scores, within))
    else:
        with pytest.raises(error, match=message):
            jp.masks.make(scores, 0.5, within=within)
    with pytest.raises(error, match=message):
        jp.masks.check_fit(scores, [0.5], within=within)


def test_leaves_that_are_no_arrays():
    for prune in (jp.masks.make, lambda s, p, **k: jp.masks.check_fit(s, [p], **k)):
        with pytest.raises(TypeError, match="'w' is of dtype float"):
            prune({"w": 1.0}, 0.5)
        with pytest.raises(TypeError, match=r"`within` holds boolean arrays .*, but 'w' is a bool"):
            prune({"w": jnp.float32(1.0)}, 0.5, within={"w": True})


@pytest.mark.parametrize(
    ("leaves", "counts", "message"),
    [
        (((0,), (2,)), (1, 1), "has 'b' in 0 pools"),
        (((0, 1), (1, 2)), (1, 1), "has 'b' in 2 pools"),
        (((0, 1, 2, 2),), (1,), "has 'c' in 2 pools"),
        (((0, 1, 2, 3),), (1,), r"leaf 3 in a pool, but .* 3, from 0 \('a'\) to 2 \('c'\)"),
        (((0, 1), (2,)), (1,), "gives 1 counts for 2 pools; the first without one holds 'c'"),
        (((0, 1, 2),), (1, 1), "gives 2 counts for 1 pools. Let"),
    ],
)
def test_allocations_of_users_are_checked(leaves, counts, message):
    scores = dict(zip("abc", jnp.arange(12.0).reshape(3, 2, 2), strict=True))
    pools = jp.masks.Pools(leaves, lambda sparsity, sizes: counts, "allow")
    allocation = lambda scores, within: (scores, pools)  # noqa: E731
    with pytest.raises(ValueError, match=message):
        jp.masks.make(scores, 0.5, allocation=allocation)
    with pytest.raises(ValueError, match=message):
        jp.masks.check_fit(scores, [0.5], allocation=allocation)


def test_leaves_whose_counts_are_fixed_need_no_pool():
    scores = {"a": jnp.arange(8.0).reshape(4, 2), "b": jnp.arange(6.0).reshape(3, 2)}
    pools = jp.masks.Pools(((1,), ()), lambda sparsity, sizes: (2, 0), "error", fixed=True)
    mask = jp.masks.make(
        scores,
        None,
        allocation=lambda scores, within: (scores, pools),
        pattern=lambda path, leaf: jp.masks.nm(2, 4, axis=0)(path, leaf) if path == "a" else None,
    )
    assert [int(m.sum()) for m in jax.tree.leaves(mask)] == [4, 4]


def test_float64_scores():
    with jax.enable_x64(True):
        scores = jnp.array([1.0, 1.0 + 1e-12, 1.0 - 1e-12, 2.0], jnp.float64)
        assert jp.masks.make([scores], 0.5)[0].tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float8_e5m2", "float8_e4m3fn"]
)
@pytest.mark.parametrize("size", [1, 300, 70_000])
def test_a_nan_is_found_on_the_host_in_every_format_and_at_every_place(dtype, size):
    for place in {0, size // 2, size - 1}:
        scores = np.linspace(0, 1, size, dtype=np.float32)
        scores[place] = -np.nan
        leaves = {"w": jnp.asarray(scores).astype(dtype), "v": jnp.ones((4,), dtype)}
        mask, info = jp.masks.make_with_info(leaves, 0.5)
        assert info.nan.tolist() == [False, True]  # v, w
        assert bool(mask["w"][place])
        with pytest.raises(ValueError, match="'w' hold NaN"):
            info.check()
        with pytest.raises(ValueError, match="'w' hold NaN"):
            jp.prune(leaves, 0.5, where=lambda path, leaf: True)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"allocation": masks.erk}, r"allocation=erk .*call it, e\.g\. allocation=jp\.masks\.erk"),
        ({"allocation": masks.globally}, "allocation=globally is the function that makes one"),
        ({"pattern": masks.nm}, "pattern=nm is the function that makes one"),
        ({"pattern": masks.channels}, "pattern=channels is the function that makes one"),
        ({"allocation": "erk"}, "allocation must be a function or None"),
    ],
)
def test_a_factory_is_to_be_called(rules, message):
    for make in (masks.make, lambda s, k, **rules: masks.check_fit(s, [k], **rules)):
        with pytest.raises(TypeError, match=message):
            make({"w": jnp.ones((4, 4))}, 0.5, **rules)


def test_a_number_of_weights_is_a_fraction():
    with pytest.raises(ValueError, match=r"For 2 of n weights pass 2 / n, which is exact"):
        masks.make({"w": jnp.arange(6.0)}, 2)
    assert int(masks.make({"w": jnp.arange(6.0)}, 2 / 6)["w"].sum()) == 4


def test_where_is_a_function():
    with pytest.raises(TypeError, match=r"where is a function \(path, leaf\) -> bool"):
        jp.prune({"kernel": jnp.ones((2, 2))}, 0.5, where="kernel")


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("dense/kernel_lora_a", False),
        ("dense/w_lora_b", False),
        ("attention/lora_a/kernel", False),
        ("rel_pos_bias/kernel", False),
        ("alibi_weight", False),
        ("pos_embedding/w", False),
        ("patch_embed/kernel", True),
        ("router/kernel", True),
        ("gate_weight", True),
        ("dense_bias_free/kernel", True),
    ],
)
def test_names_that_tell(path, taken):
    assert jp.default_where(path, jnp.ones((4, 4))) == taken


def test_depthwise_kernels_can_stay_dense():
    flax = {"dw": {"kernel": jnp.ones((3, 3, 1, 8))}, "pw": {"kernel": jnp.ones((1, 1, 8, 4))}}
    _, mask = jp.prune(flax | {"b": {"bias": jnp.ones(4)}}, 0.5, where=jp.masks.without_depthwise())
    assert mask["dw"]["kernel"] is None is mask["b"]["bias"]
    assert mask["pw"]["kernel"].shape == (1, 1, 8, 4)
    torch = {"dw": {"weight": jnp.ones((8, 1, 3, 3))}, "pw": {"weight": jnp.ones((4, 8, 1, 1))}}
    _, mask = jp.prune(torch, 0.5, where=jp.masks.without_depthwise("equinox"))
    assert mask["dw"]["weight"] is None is not mask["pw"]["weight"]
    scanned = {"dw": {"kernel": jnp.ones((5, 3, 1, 8))}, "pw": {"kernel": jnp.ones((5, 1, 8, 4))}}
    assert jp.prune(scanned, 0.5, where=jp.masks.without_depthwise())[1]["dw"]["kernel"] is None
    dense = {"kernel": jnp.ones((1, 8))}  # one input is not a depthwise layer
    # Nor is a single head of attention, nor are names of Keras without a shape that tells.
    head = jnp.ones((16, 1, 8))
    takes = jp.masks.without_depthwise()
    assert takes("attention/query/kernel", head)
    assert takes("attention/value/kernel/value", head)
    assert not takes("conv/kernel", head)
    assert not takes("mobile/depthwise_kernel", jnp.ones((3, 3, 8, 1)))
    assert jp.masks.without_depthwise()("kernel", dense["kernel"])
    only = jp.masks.without_depthwise(where=lambda path, leaf: path.startswith("pw"))
    assert jp.prune(flax, 0.5, where=only)[1]["dw"]["kernel"] is None
    with pytest.raises(ValueError, match="layout is one of"):
        jp.masks.without_depthwise("torch")
