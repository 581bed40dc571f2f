"""Every score with every allocation and every pattern, against the slow mask maker.

One tree of one structure and dtype, so that the engine compiles once for every way in which leaves
are pooled and cut; hypothesis varies values.
"""

import functools
import itertools
import math
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from tests.masks import oracle

# In order of jax.tree.leaves. Groups have sizes of powers of two, so that float32 means are exact.
SHAPES = {"Conv_0": (2, 1, 4, 4), "Conv_1": (1, 2, 8, 4), "Dense_0": (8, 8)}
NAMES, LEAVES = list(SHAPES), list(SHAPES.values())


def make_params(rng, dtype=np.float32):
    """Kernels with a few equal and a few zero weights, biases, norm scales."""
    params = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        kernel = rng.normal(size=shape) * rng.choice([0.0, 0.5, 1.0], shape, p=[0.1, 0.2, 0.7])
        kernel = np.where(rng.random(shape) < 0.2, np.round(kernel, 1), kernel)
        params[name] = {
            "kernel": jnp.asarray(kernel, dtype),
            "bias": None if i == 1 else jnp.asarray(rng.normal(size=shape[-1:]), dtype),
        }
        params[f"Norm_{i}"] = {"scale": jnp.asarray(rng.normal(size=shape[-1:]), dtype)}
    return params


def random_like(rng, params):
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)


def forward(params, x):
    for name in SHAPES:
        kernel = params[name]["kernel"].reshape(-1, SHAPES[name][-1])
        x = jnp.tanh(x.mean(axis=1, keepdims=True) * jnp.ones((1, kernel.shape[0]))) @ kernel
    return x


def linear_forward(params, x):
    for name in SHAPES:
        kernel = params[name]["kernel"].reshape(-1, SHAPES[name][-1])
        x = (x.sum(axis=1, keepdims=True) * jnp.ones((1, kernel.shape[0]))) @ kernel
    return x


def seed_of(rng):
    return int(rng.integers(2**31))


@functools.cache
def compiled(name):
    """Scores that take derivatives, each compiled once."""
    loss = lambda p, x: jnp.mean(forward(p, x) ** 2)  # noqa: E731
    return {
        "synflow": jax.jit(
            lambda p: jp.scores.synflow(linear_forward, p, jnp.zeros((1, 3), jnp.float32))
        ),
        "grasp": jax.jit(
            lambda p, x: jp.scores.grasp(
                p, jp.scores.hessian_gradient_product(lambda q: loss(q, x), p)
            )
        ),
    }[name]


def norms_like(rng, params):
    return {
        name: {
            k: None
            if x is None or x.ndim < 2
            else jnp.asarray(
                np.abs(rng.normal(size=(*x.shape[:-1], 1))).astype(np.float32), x.dtype
            )
            for k, x in layer.items()
        }
        for name, layer in params.items()
    }


def add(a, b):
    return jax.tree.map(lambda x, y: 0.5 * x + 2.0 * y, a, b)


SCORES = {
    "magnitude": lambda rng, p: jp.scores.magnitude(p),
    "random": lambda rng, p: jp.scores.random(jax.random.key(seed_of(rng)), p),
    "taylor": lambda rng, p: jp.scores.taylor(p, random_like(rng, p)),
    "taylor squared": lambda rng, p: jp.scores.taylor(p, random_like(rng, p), squared=True),
    "snip": lambda rng, p: jp.scores.snip(p, random_like(rng, p)),
    "grasp": lambda rng, p: compiled("grasp")(p, jnp.asarray(rng.normal(size=(5, 3)), np.float32)),
    "synflow": lambda rng, p: compiled("synflow")(p),
    "fisher": lambda rng, p: jp.scores.fisher(p, jax.tree.map(jnp.square, random_like(rng, p))),
    "wanda": lambda rng, p: jp.scores.wanda(p, norms_like(rng, p)),
    "batch norm scale": lambda rng, p: jp.scores.batch_norm_scale(
        p, {f"{name}/kernel": f"Norm_{i}/scale" for i, name in enumerate(SHAPES)}
    ),
    "lamp": lambda rng, p: jp.scores.lamp(jp.scores.magnitude(p)),
    "movement": lambda rng, p: jp.scores.movement(
        p, random_like(rng, p), previous=jp.scores.movement(p, random_like(rng, p))
    ),
    "geometric median": lambda rng, p: jp.scores.geometric_median(p),
    "a sum": lambda rng, p: add(
        jp.scores.magnitude(p), jp.scores.random(jax.random.key(seed_of(rng)), p)
    ),
    "a signed sum": lambda rng, p: add(
        jp.scores.movement(p, random_like(rng, p)), jp.scores.taylor(p, random_like(rng, p))
    ),
}


def one(shape):
    return Fraction(1)


def erk_rule(shape):
    return Fraction(sum(shape), math.prod(shape))


allow = {"on_collapse": "allow"}
O = oracle.Allocation  # noqa: E741
# Ours, the oracle's, and the sparsity that is passed (None: fixed by the allocation).
ALLOCATIONS = {
    "globally": (jp.masks.globally(**allow), O("globally")),
    "globally, capped": (
        jp.masks.globally(
            max_sparsity={"Conv_0/.*": 0.7, "Conv_.*": 0.95}, min_sparsity=0.15, **allow
        ),
        O("globally", least=[0.15] * 3, most=[0.7, 0.95, None]),
    ),
    "uniform": (jp.masks.uniform(**allow), O("uniform")),
    "uniform, capped": (
        jp.masks.uniform(
            max_sparsity={"Conv_0/kernel": 0.3}, min_sparsity={"Dense_0/.*": 0.5}, **allow
        ),
        O("shared", one, least=[0, 0, 0.5], most=[0.3, None, None]),
    ),
    "uniform_plus": (
        jp.masks.uniform_plus(first="Conv_0/kernel", last="Dense_0/.*", **allow),
        O("shared", one, most=[0.0, None, 0.8]),
    ),
    "erk": (jp.masks.erk(**allow), O("shared", erk_rule)),
    "erk, capped": (
        jp.masks.erk(max_sparsity=[("Conv_1.*", 0.5), (".*", 0.9)], **allow),
        O("shared", erk_rule, most=[0.9, 0.5, 0.9]),
    ),
    "lamp": (jp.masks.lamp(**allow), O("globally")),
    "per_leaf, some": (
        jp.masks.per_leaf({"Conv_0/kernel": 0.25, "Dense_.*": 0.75}, **allow),
        O("shared", one, least=[0.25, 0, 0.75], most=[0.25, None, 0.75]),
    ),
    "per_leaf, all": (
        jp.masks.per_leaf({"Conv_0.*": 0.25, "Conv_.*": 0.5, ".*": 0.75}, **allow),
        O("shared", one, least=[0.25, 0.5, 0.75], most=[0.25, 0.5, 0.75]),
    ),
}


def fixed(allocation):
    return allocation == "per_leaf, all"


def dense_only(pattern):
    return lambda path, leaf: pattern(path, leaf) if path.startswith("Dense") else None


nm, block, channels = jp.masks.nm, jp.masks.block, jp.masks.channels
# Ours, and the oracle's: ("nm", n, axis, m), ("groups", shape -> groups, norm), None; by leaf.
BLOCKS = ("groups", lambda shape: list(oracle.groups_along(shape, [-2, -1], [2, 2])), "l1")


def by_channel(axis, norm):
    return ("groups", lambda shape: list(oracle.channel_groups(shape, axis)), norm)


# One compilation for three norms.
NORM_OF = {"Conv_0/kernel": "l2", "Conv_1/kernel": "max", "Dense_0/kernel": "mean"}
PATTERNS = {
    "none": (None, [None] * 3),
    "2:4": (nm(2, 4, layout="flax"), [("nm", 2, -2, 4)] * 3),
    "1:4": (nm(1, 4, axis=-1), [("nm", 1, -1, 4)] * 3),
    "2:3 with a remainder": (nm(2, 3, axis=-2, remainder="dense"), [("nm", 2, -2, 3)] * 3),
    "block": (block(2, 2), [BLOCKS] * 3),
    "block with a remainder": (
        block(3, 3, norm="max", remainder="dense"),
        [("groups", lambda s: list(oracle.groups_along(s, [-2, -1], [3, 3])), "max")] * 3,
    ),
    "channels": (channels(), [by_channel(-1, "l1")] * 3),
    "channels of several norms": (
        lambda path, leaf: channels(lambda p, x: -1, norm=NORM_OF[path])(path, leaf),
        [by_channel(-1, norm) for norm in NORM_OF.values()],
    ),
    "mixed 2:4": (
        dense_only(nm(2, 4, layout="flax")),
        [None, None, ("nm", 2, -2, 4)],
    ),
    "mixed block": (dense_only(block(2, 2)), [None, None, BLOCKS]),
}


def grouped(pattern):
    return any(spec is not None and spec[0] == "groups" for spec in PATTERNS[pattern][1])


def exactly_summable(score):
    """A few bits of each score, so that float32 sums and means of a group round nothing."""
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(score)) or 1.0
    return jax.tree.map(
        lambda x: jnp.asarray(np.round(np.asarray(x, np.float64) / scale * 256) / 256, x.dtype),
        score,
    )


def kernels(tree):
    return [np.asarray(tree[name]["kernel"]) for name in NAMES]


def expected(allocation, pattern, scores, sparsity, within):
    """The oracle's masks, or None if the allocation cannot give that total."""
    specs, rule = PATTERNS[pattern][1], ALLOCATIONS[allocation][1]
    within = [np.ones(s, bool) for s in LEAVES] if within is None else within
    entries, there, groups, shapes, masks = [], [], [], [], [None] * len(LEAVES)
    counted = []
    for i, (score, spec) in enumerate(zip(scores, specs, strict=True)):
        if spec is not None and spec[0] == "nm":
            masks[i] = oracle.keep_best(score, *spec[1:], within=within[i])
            continue
        counted.append(i)
        shapes.append(score.shape)
        groups.append(None if spec is None else spec[1](score.shape))
        if spec is None:
            entries.append(score.reshape(-1))
            there.append(within[i].reshape(-1))
        else:
            values, left = oracle.group_scores(score, groups[-1], spec[2], within[i])
            entries.append(values)
            there.append(left)
    sizes = [x.size for x in entries]
    rule = rule._replace(
        least=None if rule.least is None else [rule.least[i] for i in counted],
        most=None if rule.most is None else [rule.most[i] for i in counted],
    )
    if sparsity is None and not fixed(allocation):  # an N:M pattern fixes its leaves, no others go
        for i in counted:
            masks[i] = within[i]
        return masks
    if fixed(allocation):
        removed = [oracle.exact_count(x, n) for x, n in zip(rule.least, sizes, strict=True)]
        flat = [
            oracle.remove_lowest([x], k, [w])[0]
            for x, k, w in zip(entries, removed, there, strict=True)
        ]
    elif not rule.possible(sparsity, sizes):
        return None
    elif not nested(rule, sparsity, there, shapes):
        return "not nested"
    elif rule.tied(sparsity, sizes, shapes):
        return "tied"
    else:
        flat = rule.remove(entries, sparsity, there, shapes)
    for i, kept, g, shape in zip(counted, flat, groups, shapes, strict=True):
        masks[i] = (
            kept.reshape(shape) & within[i]
            if g is None
            else oracle.spread(kept, g, shape, within[i])
        )
    return masks


def nested(rule, sparsity, there, shapes):
    """Whether no leaf is asked to lose less than is gone: largest remainder is not monotone."""
    if rule.kind != "shared":
        return True
    asked = rule.each(sparsity, [x.size for x in there], shapes)
    return all(k >= int((~x).sum()) for k, x in zip(asked, there, strict=True))


def quietly(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="this prune removes nothing")
        return jp.masks.make(*args, **kwargs)


def own_sparsity(pattern):
    """The sparsity that an N:M pattern fixes."""
    return {"2:4": 0.5, "1:4": 0.75, "2:3 with a remainder": 1 - 2 / 3, "mixed 2:4": 0.5}.get(
        pattern
    )


def on_two_devices(tree):
    """Copies on two devices: their masks are made by compiled code, not on the host."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("copies",))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def make_or_refuse(allocation, pattern, scores, sparsity, within, place=lambda tree: tree):
    """The mask, or None where it is refused because the limits do not allow the total."""
    ours, shape = ALLOCATIONS[allocation][0], PATTERNS[pattern][0]
    scores, within = place(scores), place(within)
    try:
        return quietly(scores, sparsity, within=within, allocation=ours, pattern=shape)
    except ValueError as error:
        if "cannot add up" not in str(error) and "Masks are nested" not in str(error):
            raise
        return None


def check_one(score, allocation, pattern, scores, first, second, place=lambda tree: tree):
    ours, shape = ALLOCATIONS[allocation][0], PATTERNS[pattern][0]
    named = jax.tree_util.tree_leaves_with_path(scores)
    paths = [(jax.tree_util.keystr(p, simple=True, separator="/"), x) for p, x in named]
    specs = [(shape(path, x), x) for path, x in paths] if shape else []
    if any(s is not None and s.norm == "l2" and (x < 0).any() for s, x in specs):
        with pytest.raises(ValueError, match="negative somewhere"):
            jp.masks.make(scores, first, allocation=ours, pattern=shape)
        return
    if allocation == "lamp":
        if any((x < 0).any() for x in kernels(scores)):
            with pytest.raises(ValueError, match="negative somewhere"):
                jp.masks.make(scores, None, allocation=ours, pattern=shape)
            return
        rescaled = jp.scores.lamp(scores)
        for x, u in zip(kernels(rescaled), kernels(scores), strict=True):
            np.testing.assert_allclose(x, oracle.lamp(u), rtol=1e-5)
    if grouped(pattern):
        scores = exactly_summable(scores)
    sparsities = (first, second)
    if own_sparsity(pattern) is not None:
        sparsities = (own_sparsity(pattern),) * 2
        if not pattern.startswith("mixed"):
            sparsities = (None, None)
    if fixed(allocation):
        sparsities = (None, None)
    # A dense mask is as good as none, and compiles once for both prunes.
    within = jp.masks.dense(scores)
    for sparsity in sparsities:
        before = kernels(within)
        used = scores
        if allocation == "lamp":
            used = jp.scores.lamp(scores, within=within)
        if allocation == "lamp" and grouped(pattern):
            # Sums of LAMP scores round: check what is exact.
            mask = make_or_refuse(allocation, pattern, scores, sparsity, within, place)
        else:
            theirs = expected(allocation, pattern, kernels(used), sparsity, before)
            mask = make_or_refuse(allocation, pattern, scores, sparsity, within, place)
            if theirs == "tied":  # see test_shares
                return
            assert (mask is None) == (theirs is None or theirs == "not nested")
            if mask is None:
                return
            for name, a, b in zip(NAMES, kernels(mask), theirs, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{score} {name} at {sparsity}")
        assert not any((m & ~b).any() for m, b in zip(kernels(mask), before, strict=True))
        if shape is not None:
            jp.masks.check(mask, shape)
        assert all(mask[name]["bias"] is None for name in NAMES)
        check_count(allocation, pattern, mask, sparsity)
        within = mask
    again = make_or_refuse(allocation, pattern, scores, sparsity, within, place)
    for a, b in zip(kernels(again), kernels(within), strict=True):
        np.testing.assert_array_equal(a, b)


def check_count(allocation, pattern, mask, sparsity):
    """Counts in the pattern's unit, and limits."""
    sizes, lost = [], []
    for m, spec in zip(kernels(mask), PATTERNS[pattern][1], strict=True):
        if spec is not None and spec[0] == "nm":
            sizes.append(0)
            lost.append(0)
            continue
        units = [[i] for i in np.ndindex(m.shape)] if spec is None else spec[1](m.shape)
        sizes.append(len(units))
        lost.append(sum(not any(m[i] for i in unit) for unit in units))
    rule = ALLOCATIONS[allocation][1]
    least, most = rule.limits(sizes)
    assert all(a <= x <= b for a, x, b in zip(least, lost, most, strict=True)), (least, lost, most)
    if sparsity is None:
        return
    if rule.kind == "uniform":
        assert lost == [oracle.exact_count(sparsity, n) for n in sizes]
    else:
        assert sum(lost) == oracle.exact_count(sparsity, sum(sizes))


# The search with limits compiles longest, and cuts leaves as the one without does.
PAIRS = [
    (a, p)
    for a, p in itertools.product(ALLOCATIONS, PATTERNS)
    if a != "globally, capped" or p in ("none", "2:4", "block", "mixed 2:4", "mixed block")
]


SOME = [("globally, capped", "mixed 2:4"), ("uniform", "channels")]
COMPILED = [pytest.param(*pair, marks=() if pair in SOME else pytest.mark.slow) for pair in PAIRS]


@pytest.mark.parametrize(("allocation", "pattern"), COMPILED)
def test_every_combination_compiled_equals_the_oracle(allocation, pattern):
    for number in range(8):
        rng = np.random.default_rng(number)
        score = list(SCORES)[number % len(SCORES)]
        scores = SCORES[score](rng, make_params(rng))
        first = rng.uniform(0.16, 0.7)
        second = rng.uniform(first, 0.95)
        check_one(score, allocation, pattern, scores, first, second, on_two_devices)


@pytest.mark.parametrize(("allocation", "pattern"), PAIRS)
@settings(max_examples=8)
@given(data=st.data())
def test_every_combination_equals_the_oracle(allocation, pattern, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    first = data.draw(st.floats(0.16, 0.7))
    second = first + (0.95 - first) * data.draw(st.floats(0, 1))
    score = data.draw(st.sampled_from(sorted(SCORES)))
    rng = np.random.default_rng(seed)
    scores = SCORES[score](rng, make_params(rng))
    check_one(score, allocation, pattern, scores, first, second)


# Scores vary, and what is compiled does not: all of them with every pair in turn.
@pytest.mark.parametrize("number", range(len(SCORES)))
def test_every_score_with_every_allocation_and_pattern(number):
    score = list(SCORES)[number]
    rng = np.random.default_rng(number)
    scores = SCORES[score](rng, make_params(rng))
    for i, (allocation, pattern) in enumerate(PAIRS):
        if (i + number) % 3 == 0:
            first = rng.uniform(0.16, 0.7)
            check_one(score, allocation, pattern, scores, first, rng.uniform(first, 0.95))


def distinct(rng):
    """Scores that are different integers: sums are exact and no two weights tie."""
    values = rng.permutation(sum(map(math.prod, LEAVES))) + 1
    ends = np.cumsum([math.prod(s) for s in LEAVES])[:-1]
    parts = [v.reshape(s) for v, s in zip(np.split(values, ends), LEAVES, strict=True)]
    return {
        name: {"kernel": jnp.asarray(v, jnp.float32), "bias": None}
        for name, v in zip(NAMES, parts, strict=True)
    }


@pytest.mark.parametrize("pattern", ["none", "2:4"])
@pytest.mark.parametrize("allocation", ["globally", "lamp", "uniform", "erk"])
def test_the_order_of_leaves_does_not_matter_without_ties(allocation, pattern):
    renamed = {"Conv_0": "c", "Conv_1": "b", "Dense_0": "a"}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores, sparsity = distinct(rng), rng.uniform(0.1, 0.9)
        sparsity = None if pattern == "2:4" else sparsity
        if allocation == "erk" and sparsity is not None:
            sparsity = 0.5  # shares without a tie among remainders
        ours, shape = ALLOCATIONS[allocation][0], PATTERNS[pattern][0]
        mask = jp.masks.make(scores, sparsity, allocation=ours, pattern=shape)
        other = jp.masks.make(
            {renamed[k]: v for k, v in scores.items()}, sparsity, allocation=ours, pattern=shape
        )
        for name in NAMES:
            if allocation == "lamp":  # the largest of each leaf all score 1
                assert (mask[name]["kernel"] != other[renamed[name]]["kernel"]).sum() <= 1
            else:
                np.testing.assert_array_equal(mask[name]["kernel"], other[renamed[name]]["kernel"])


JITTED = [
    ("globally", "none"),
    ("globally, capped", "mixed 2:4"),
    ("lamp", "none"),
    ("erk", "block"),
    ("uniform_plus", "channels"),
    ("uniform", "2:4"),
    ("per_leaf, all", "none"),
]


@pytest.mark.parametrize(
    ("allocation", "pattern"),
    [*JITTED[:3], *(pytest.param(*pair, marks=pytest.mark.slow) for pair in JITTED[3:])],
)
def test_jit_equals_no_jit(allocation, pattern):
    ours, shape = ALLOCATIONS[allocation][0], PATTERNS[pattern][0]
    sparsity = {"2:4": None, "mixed 2:4": 0.5}.get(pattern, 0.6)
    sparsity = None if fixed(allocation) else sparsity
    make = functools.partial(quietly, sparsity=sparsity, allocation=ours, pattern=shape)
    make_in_jit = jax.jit(lambda scores, within: make(scores, within=within))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scores = jp.scores.magnitude(make_params(rng))
        within = jp.masks.make(scores, 0.1, allocation=jp.masks.uniform())
        if pattern != "none" or fixed(allocation):
            within = jp.masks.dense(scores)
        for a, b in zip(
            kernels(make_in_jit(scores, within)), kernels(make(scores, within=within)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


# bfloat16 and float16 have many ties, and groups are summed in float32.
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    ("allocation", "pattern"),
    [
        ("globally", "none"),
        ("globally, capped", "none"),
        ("uniform", "channels"),
        ("globally", "mixed block"),
        ("globally, capped", "mixed block"),
        ("globally", "2:4"),
    ],
)
def test_short_dtypes(allocation, pattern, dtype):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scores = exactly_summable(jp.scores.magnitude(make_params(rng)))
        scores = jax.tree.map(lambda x: jnp.round(x * 64).astype(dtype), scores)
        exact = jax.tree.map(lambda x: x.astype(jnp.float32), scores)
        sparsity = None if pattern == "2:4" else 0.55
        theirs = expected(allocation, pattern, kernels(exact), sparsity, None)
        mask = make_or_refuse(allocation, pattern, scores, sparsity, None)
        for a, b in zip(kernels(mask), theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_leaves_of_several_dtypes_with_groups():
    rng = np.random.default_rng(0)
    dtypes = dict(zip(NAMES, [jnp.bfloat16, jnp.float16, jnp.float16], strict=True))
    scores = exactly_summable(jp.scores.magnitude(make_params(rng)))
    scores = {
        name: {"kernel": jnp.round(scores[name]["kernel"] * 64).astype(dtype)}
        for name, dtype in dtypes.items()
    }
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), scores)
    for pattern in ("none", "mixed block"):
        theirs = expected("globally", pattern, kernels(exact), 0.6, None)
        mask = make_or_refuse("globally", pattern, scores, 0.6, None)
        for a, b in zip(kernels(mask), theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_raw_score_of_groups_removes_the_lowest_sums():
    """Sums of any floats round, so: nothing that went is clearly above anything that stayed."""
    for seed, (pattern, allocation) in enumerate(
        itertools.product(["block", "channels"], ["globally", "lamp"])
    ):
        rng = np.random.default_rng(seed)
        scores = jp.scores.magnitude(make_params(rng))
        mask = make_or_refuse(allocation, pattern, scores, 0.5, None)
        used = jp.scores.lamp(scores) if allocation == "lamp" else scores
        gone, kept = [], []
        for s, m, spec in zip(kernels(used), kernels(mask), PATTERNS[pattern][1], strict=True):
            groups = spec[1](s.shape)
            values, _ = oracle.group_scores(s, groups, spec[2])
            for value, group in zip(values, groups, strict=True):
                (kept if m[group[0]] else gone).append(value)
        assert max(gone) <= min(kept) * (1 + 1e-5)
        assert len(gone) == oracle.exact_count(0.5, len(gone) + len(kept))
