"""The search itself: devices, transformations, huge leaves, memory, the sampled bracket."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune._selection import _passes, _smallest, _ties, limbs, ordering
from tests.masks import oracle

F32 = jnp.dtype(jnp.float32)
# Rounded, so that several entries tie with the threshold.
RNG = np.random.default_rng(0)
SCORES = {
    "a": jnp.asarray(np.round(RNG.random((16, 24)).astype(np.float32), 2)),
    "b": jnp.asarray(np.round(RNG.random((8, 40)).astype(np.float32), 2)),
}
ALONE = jp.masks.make(SCORES, 0.6)


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


ALLOCATIONS = {
    "globally": jp.masks.globally(),
    "capped": jp.masks.globally(max_sparsity={"b": 0.5}),
    "uniform": jp.masks.uniform(),
    "erk": jp.masks.erk(),
}


def spread(mesh):
    names = mesh.axis_names
    specs = {"a": P(*names), "b": P(names)}
    return {k: jax.device_put(SCORES[k], NamedSharding(mesh, specs[k])) for k in SCORES}, specs


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def make_one(w, sparsity):
    return jp.masks.make({"w": w}, sparsity)["w"]


def operations(compiled):
    text = compiled.as_text()
    return set(re.findall(r" ([a-z][a-z0-9-]*)\(", text))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        if (name, shape) in [("globally", (8, 1)), ("uniform", (2, 4))]
        else pytest.param(name, shape, marks=pytest.mark.slow)
        for name, shape in itertools.product(ALLOCATIONS, [(8, 1), (2, 4)])
    ],
)
def test_eight_devices_neither_gather_nor_sort(name, shape):
    make = jax.jit(lambda s: jp.masks.make(s, 0.6, allocation=ALLOCATIONS[name]))
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("x", "y"))
    scores, specs = spread(mesh)
    compiled = make.lower(scores).compile()
    mask = compiled(scores)
    assert_same(mask, jp.masks.make(SCORES, 0.6, allocation=ALLOCATIONS[name]))
    for leaf, value in mask.items():
        assert value.sharding.is_equivalent_to(scores[leaf].sharding, value.ndim), specs[leaf]
    found = operations(compiled)
    assert "all-reduce" in found
    assert not found & {"all-gather", "sort", "all-to-all", "collective-permute"}


def test_within_on_eight_devices():
    scores, _ = spread(Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y")))
    within = jp.masks.make(scores, 0.3)
    mask = jp.masks.make(scores, 0.6, within=within)
    assert_same(mask, jp.masks.make(SCORES, 0.6, within=jp.masks.make(SCORES, 0.3)))


def test_a_mesh_of_explicit_axes():
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        scores, specs = spread(mesh)
        mask = jp.masks.make(scores, 0.6)
        assert mask["a"].sharding.spec == specs["a"]
    assert_same(mask, ALONE)


def test_parts_of_unequal_size_are_counted_once():
    # Ten rows over eight devices: the partitioner pads, and padding must not be counted.
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), P("x"))
    odd = jnp.asarray(RNG.random((10, 3)).astype(np.float32))
    make = partial(make_one, sparsity=0.5)
    constrained = jax.jit(lambda w: make(jax.lax.with_sharding_constraint(w * 1, sharding)))
    assert_same(constrained(odd), make(odd))


@pytest.mark.parametrize("axes", [{"x", "y"}, {"x"}])
def test_each_shard_for_itself_inside_shard_map(axes):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    make = partial(make_one, sparsity=0.6)
    each = jax.shard_map(make, mesh=mesh, in_specs=P("x"), out_specs=P("x"), axis_names=axes)
    masks = jax.jit(each)(SCORES["b"])
    assert_same(masks[:4], make(SCORES["b"][:4]))
    assert_same(masks[4:], make(SCORES["b"][4:]))


def test_pmap():
    masks = jax.pmap(lambda w: jp.masks.make({"w": w}, 0.6)["w"])(SCORES["b"].reshape(8, 5, 8))
    assert_same(masks[5], jp.masks.make({"w": SCORES["b"][5].reshape(5, 8)}, 0.6)["w"])


def test_a_stack_of_stacks_split_over_devices():
    stack = jnp.asarray(RNG.random((8, 3, 5, 8)).astype(np.float32))
    make = partial(make_one, sparsity=0.6)
    spread_out = jax.device_put(stack, NamedSharding(Mesh(np.array(jax.devices()), ("x",)), P("x")))
    compiled = jax.jit(jax.vmap(jax.vmap(make))).lower(spread_out).compile()
    masks = compiled(spread_out)
    assert "all-gather" not in operations(compiled)
    assert masks.sharding.spec == P("x")
    for i, j in [(0, 0), (3, 2), (7, 1)]:
        assert_same(masks[i, j], make(stack[i, j]))


@pytest.mark.slow
def test_vmap_over_sparsities_or_previous_masks_alone():
    sparsities = jnp.asarray([0.25, 0.5, 0.75], jnp.float32)
    masks = jax.vmap(lambda s: jp.masks.make(SCORES, s))(sparsities)
    withins = jax.vmap(lambda m: jp.masks.make(SCORES, 0.8, within=m))(masks)
    for i, sparsity in enumerate([0.25, 0.5, 0.75]):
        mask = jp.masks.make(SCORES, sparsity)
        assert_same(jax.tree.map(lambda m, i=i: m[i], masks), mask)
        nested = jp.masks.make(SCORES, 0.8, within=mask)
        assert_same(jax.tree.map(lambda m, i=i: m[i], withins), nested)


def test_cond_scan_and_gradients():
    dense = jp.masks.dense(SCORES, where=lambda path, leaf: True)
    choose = jax.jit(
        lambda s, now: jax.lax.cond(now, lambda s: jp.masks.make(s, 0.6), lambda s: dense, s)
    )
    assert_same(choose(SCORES, True), ALONE)
    assert_same(choose(SCORES, False), dense)

    def step(mask, sparsity):
        return jp.masks.make(SCORES, sparsity, within=mask), None

    last, _ = jax.lax.scan(step, dense, jnp.asarray([0.2, 0.4, 0.6], jnp.float32))
    assert_same(last, ALONE)

    def kept_sum(params):
        pruned, _ = jp.prune(params, 0.6, where=lambda path, leaf: True)
        return sum(jnp.sum(x) for x in jax.tree.leaves(pruned))

    expected = jax.tree.map(lambda m: m.astype(jnp.float32), ALONE)
    assert_same(jax.jit(jax.grad(kept_sum))(SCORES), expected)


def test_temporaries_stay_below_two_bytes_a_weight():
    scores = {f"w{i}": jax.random.uniform(jax.random.key(i), (512, 1024)) for i in range(4)}
    within = jp.masks.dense(scores)
    pairs = jp.masks.nm(2, 4, axis=0)
    for sparsity, options in [
        (0.9, {}),
        (0.9, {"allocation": jp.masks.erk()}),
        (None, {"pattern": pairs}),
    ]:
        make = jax.jit(lambda s, w, p=sparsity, o=options: jp.masks.make(s, p, within=w, **o))
        memory = make.lower(scores, within).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 2 * 4 * 512 * 1024
        make = jax.jit(lambda s, p=sparsity, o=options: jp.masks.make(s, p, **o))
        memory = make.lower(scores).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 2 * 4 * 512 * 1024


def leaves_of(arrays, pools, wide=False):
    return [
        _passes.Leaf(jnp.asarray(x), None, pool, F32, wide)
        for x, pool in zip(arrays, pools, strict=True)
    ]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("tied", "wide"), [(False, False), (True, False), (True, True)])
def test_the_sampled_bracket_changes_nothing(monkeypatch, tied, wide, together):
    monkeypatch.setattr(_smallest, "_SAMPLED_FROM", 1000)
    monkeypatch.setattr(_smallest, "_SAMPLE", 300)
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(60, 50)), rng.normal(size=(2000,)), rng.normal(size=(30, 10, 10))]
    arrays = [np.abs(np.round(x, 1) if tied else x).astype(np.float32) for x in arrays]
    arrays[1] += 3  # the sample of a pool is no fair one where leaves differ; the result is exact
    leaves = leaves_of(arrays, [0, 0, 1], wide)
    run = jax.jit(lambda k: _smallest.smallest(_passes.arrange(leaves, together=together), k))
    for k in [(0, 0), (1, 1), (2500, 900), (4999, 2999), (5000, 3000)]:
        found = run(jnp.asarray(limbs.fit(limbs.stack_limbs(k), wide)))
        expected = [
            *oracle.remove_lowest(arrays[:2], k[0]),
            *oracle.remove_lowest(arrays[2:], k[1]),
        ]
        for ours, mask in zip(found.removed, expected, strict=True):
            np.testing.assert_array_equal(~np.asarray(ours).reshape(mask.shape), mask)
        counts = [limbs.from_limbs(c) for c in limbs.full(found.counts)]
        assert counts == [int((~m).sum()) for m in expected]


def small_rows(shape):
    """`split_rows` as if a row had to stay below 16 entries."""
    for rows in range(len(shape) + 1):
        if int(np.prod(shape[rows:])) < 16:
            return rows, int(np.prod(shape[rows:]))
    raise AssertionError(shape)


def test_leaves_of_many_rows(monkeypatch):
    # The path of leaves with 2**32 entries and more, on small ones.
    monkeypatch.setattr(_passes, "split_rows", small_rows)
    monkeypatch.setattr(_ties, "split_rows", small_rows)
    rng = np.random.default_rng(2)
    arrays = [np.round(rng.random(s), 1).astype(np.float32) for s in [(40, 5), (3, 7, 4, 5), (9,)]]
    arrays.append(np.zeros((6, 3, 8), np.float32))
    leaves = _passes.arrange(leaves_of(arrays, [0, 0, 0, 1], wide=True), together=False)
    run = jax.jit(lambda k: _smallest.smallest(leaves, k))
    for k in [(0, 0), (17, 5), (100, 77), (388, 100), (629, 144)]:
        found = run(jnp.asarray(limbs.stack_limbs(k)))
        expected = [
            *oracle.remove_lowest(arrays[:3], k[0]),
            *oracle.remove_lowest(arrays[3:], k[1]),
        ]
        for ours, mask in zip(found.removed, expected, strict=True):
            np.testing.assert_array_equal(~np.asarray(ours), mask)


@pytest.mark.slow
def test_many_rows_on_eight_devices(monkeypatch):
    monkeypatch.setattr(_passes, "split_rows", small_rows)
    monkeypatch.setattr(_ties, "split_rows", small_rows)
    scores, _ = spread(Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y")))
    run = jax.jit(
        lambda s, k: _smallest.smallest(
            _passes.arrange(
                [_passes.Leaf(x, None, 0, F32, True) for x in s.values()], together=False
            ),
            k,
        )
    )
    k = round(0.6 * (16 * 24 + 8 * 40))
    removed = run(scores, jnp.asarray(limbs.stack_limbs([k]))).removed
    assert_same([~r for r in removed], [ALONE["a"], ALONE["b"]])


def test_counts_of_rows_add_up_past_all_limits():
    # 2**17 rows of 2**32 - 1 entries each, without the entries.
    rows = limbs.one_limb(jnp.full((1 << 17,), 2**32 - 1, jnp.uint32))
    digits = limbs.to_digits(rows)
    total = limbs.from_digits(limbs.sum_digits(digits)[None])[0]
    assert limbs.from_limbs(total) == (1 << 17) * (2**32 - 1)
    assert _passes.split_rows((1 << 17, 1 << 17)) == (1, 1 << 17)
    assert _passes.split_rows((80, 1 << 13, 1 << 14)) == (1, 1 << 27)
    assert _passes.split_rows((1 << 31,)) == (0, 1 << 31)
    with pytest.raises(ValueError, match=r"axis of 4294967296 entries.*Reshape it"):
        jp.masks.make_with_info({"w": jax.ShapeDtypeStruct((1 << 32,), jnp.float32)}, 0.5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_keys_leave_room_for_what_is_gone_and_what_must_stay(dtype):
    dtype = jnp.dtype(dtype)
    top = np.iinfo(ordering.key_dtype(dtype)).max
    values = jnp.asarray([-jnp.inf, -1.0, 0.0, 1.0, jnp.inf, jnp.nan], dtype)
    keys = np.asarray(ordering.sort_keys(values)).astype(object)
    assert np.all(np.diff(keys) > 0)
    assert keys[0] > ordering.FORCED
    assert keys[-1] == ordering.nan_key(dtype) < top
    state = [
        ordering.GONE,
        ordering.FORCED,
        ordering.CANDIDATE,
        ordering.IMMUNE,
        ordering.GONE,
        ordering.CANDIDATE,
    ]
    coded = np.asarray(ordering.sort_keys(values, jnp.asarray(state, jnp.uint8))).tolist()
    assert coded == [0, 1, keys[2], top, 0, keys[5]]


@pytest.mark.slow
def test_scores_made_by_a_reshape_of_something_split():
    # The partitioner then cuts the scores in a way that no axis of the mesh has a name for.
    for shape, spec in [((8,), P("x", None)), ((4, 2), P("x", "y"))]:
        mesh = Mesh(np.array(jax.devices()).reshape(shape), ("x", "y")[: len(shape)])
        weights = jnp.asarray(RNG.normal(size=(16, 64)).astype(np.float32))
        spread_out = jax.device_put(weights, NamedSharding(mesh, spec))
        for new in [(4, 4, 64), (2, 8, 64), (16, 8, 8), (1024,)]:
            make = jax.jit(lambda w, new=new: make_one(jnp.abs(w).reshape(new), 0.5))
            assert_same(make(spread_out), make_one(jnp.abs(weights).reshape(new), 0.5))


@pytest.mark.parametrize("norm", ["l2", *slow("l1", "mean", "max")])
def test_channels_are_the_same_on_eight_devices(norm):
    # Each column holds the same values in another order: float sums would differ by the order.
    values = RNG.normal(size=256).astype(np.float32)
    scores = jnp.abs(jnp.asarray(np.stack([RNG.permutation(values) for _ in range(64)], axis=1)))
    mesh = Mesh(np.array(jax.devices()), ("x",))
    make = partial(jp.masks.make, sparsity=0.5, pattern=jp.masks.channels(norm=norm))
    alone = make({"w": scores})["w"]
    split = make({"w": jax.device_put(scores, NamedSharding(mesh, P("x", None)))})["w"]
    assert_same(split, alone)
    assert split.sharding.spec == P("x", None)
    assert not bool(alone[:, :32].any())  # all tie, so the first half goes


def test_blocks_across_shards():
    mesh = Mesh(np.array(jax.devices()), ("x",))
    scores = jnp.asarray(RNG.random((16, 64)).astype(np.float32))
    split = jax.device_put(scores, NamedSharding(mesh, P("x", None)))  # two rows a device
    make = jax.jit(lambda s: jp.masks.make({"w": s}, 0.5, pattern=jp.masks.block(4, 4))["w"])
    mask = make(split)
    assert_same(mask, make(scores))
    assert mask.sharding.spec == P("x", None)


def test_mixed_float32_and_float64_keep_denormals():
    with jax.enable_x64(True):
        scores = {
            "a": jnp.asarray(np.array([2e-45, 1.4e-45, 1e-40, 1.0], np.float32)),
            "b": jnp.asarray(np.array([1e-320, 1.0, 2.0, 3.0])),
        }
        mask = jp.masks.make(scores, 3 / 8)
        assert mask["a"].tolist() == [False, False, True, True]
        assert mask["b"].tolist() == [False, True, True, True]


def test_values_closed_over_by_jit():
    params = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}
    _, mask = jax.jit(lambda s: jp.prune(params, s))(0.5)
    assert_same(mask, jp.prune(params, 0.5)[1])
    targets = jnp.asarray([0.25, 0.5], jnp.float32)
    _, masks = jax.lax.scan(lambda c, s: (c, jp.prune(params, s)[1]), 0, targets)
    assert_same(masks["kernel"][1], mask["kernel"])


def lost(shape, number):
    return jnp.arange(int(np.prod(shape))).reshape(shape) >= number


def test_rounding_is_evened_out_only_where_a_leaf_shares():
    scores = {k: jnp.arange(float(n)) for k, n in [("a", 40), ("b", 60), ("c", 100)]}
    within = {"a": lost(40, 20), "b": lost(60, 33), "c": lost(100, 52)}
    named = jp.masks.per_leaf({"a": 0.55})
    mask = jp.masks.make(scores, 0.54, within=within, allocation=named)
    assert int(mask["a"].sum()) == 40 - 22
    floor = jp.masks.uniform(min_sparsity={"a": 0.55})
    mask = jp.masks.make(scores, 0.54, within=within, allocation=floor)
    assert jp.metrics.counts(mask) == (92, 200)
    assert int(mask["a"].sum()) <= 18
    for allocation in (jp.masks.erk(), jp.masks.uniform(max_sparsity=0.99)):
        with pytest.raises(ValueError, match=r"the target removes .* but `within` has removed"):
            jp.masks.make(scores, 104 / 200, within=within, allocation=allocation)


def memory_gigabytes():
    with open("/proc/meminfo") as file:
        return int(re.search(r"MemAvailable:\s+(\d+)", file.read())[1]) / 2**20


@pytest.mark.slow
def test_more_than_two_to_the_31_weights():
    try:
        available = memory_gigabytes()
    except OSError:
        pytest.skip("the free memory of this machine is not known")
    if available < 16:
        pytest.skip(f"needs 16 GB of free memory, {available:.1f} are there")
    # Ascending by row and equal within a row: the threshold lies in the middle of a row.
    rows, columns = (1 << 15) + 3, 1 << 16
    n = rows * columns
    scores = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.float32)[:, None] / 64, (rows, columns))
    scores = {"w": scores.astype(jnp.bfloat16)}
    mask, info = jax.jit(lambda s: jp.masks.make_with_info(s, 0.7))(scores)
    k = round(0.7 * n)
    assert n > 2**31
    assert info.counts() == (n - k, n)
    # bfloat16 joins neighbouring rows; what goes is still the first k entries in C order.
    flat_row, column = divmod(k, columns)
    row = np.asarray(mask["w"][flat_row])
    assert not row[:column].any()
    assert row[column:].all()
    assert not bool(mask["w"][flat_row - 1].any())
    assert bool(mask["w"][flat_row + 1].all())
    assert jp.metrics.counts(mask) == (n - k, n)
