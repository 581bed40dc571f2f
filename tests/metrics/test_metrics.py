"""Sparsity, stability, norm drop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune import _mask
from tests.programs import counted


def test_sparsity_overall_and_per_leaf():
    mask = {"a": jnp.array([[True, False]]), "b": None, "c": jnp.zeros((6,), bool)}
    assert jp.sparsity(mask) == 7 / 8
    assert jp.metrics.counts(mask) == (1, 8)
    rows = jp.metrics.sparsity_per_leaf(mask)
    assert [(r.path, r.kept, r.size, r.sparsity) for r in rows] == [
        ("a", 1, 2, 0.5),
        ("c", 0, 6, 1.0),
    ]


def test_sparsity_is_exact_past_float32():
    # 2**24 + 1 kept weights are not a float32: a mean in float32 would miss the one.
    n = 2**24 + 1
    mask = {"w": jnp.ones((n + 1,), bool).at[0].set(False)}
    assert jp.metrics.counts(mask) == (n, n + 1)


# The way of leaves past 2**32 entries, with a limit that needs no such leaf.
@given(
    st.sampled_from([(3,), (17,), (4, 5), (2, 3, 4), (1, 40), (40, 1), (7, 1, 7)]),
    st.sampled_from([4, 6, 9, 64]),
    st.integers(0, 2**32 - 1),
)
def test_counts_of_large_leaves(shape, limit, seed):
    leaf = np.random.default_rng(seed).random(shape) < 0.7
    (digits,) = _mask._count_all([jnp.asarray(leaf)], limit)
    assert _mask.from_digits(np.asarray(digits)) == np.count_nonzero(leaf)


def test_partial_sums_are_added_past_two_to_the_32():
    # A uint32 total of these would be 0.
    digits = _mask._add_digits(jnp.full((2, 3), 2**31, jnp.uint32))
    assert _mask.from_digits(np.asarray(digits)) == 3 * 2**32
    values = np.random.default_rng(0).integers(0, 2**32, 1000, np.uint32)
    digits = _mask._add_digits(jnp.asarray(values))
    assert _mask.from_digits(np.asarray(digits)) == sum(map(int, values))


@pytest.mark.parametrize(
    ("shape", "partial_sums"),
    [((2**16, 2**16), 2**16), ((2**31, 2), 2), ((2**20, 3, 2**12), 2**12), ((5, 2**31, 2), 10)],
)
def test_few_partial_sums_none_of_which_can_wrap(shape, partial_sums):
    kept = _mask._kept_axes(shape, 2**32)
    assert math.prod(shape[i] for i in kept) == partial_sums
    assert math.prod(shape) // partial_sums < 2**32


@pytest.mark.parametrize("shape", [(2**32,), (2**33 + 1,), (2, 2**34), (2**17, 2**17)])
def test_large_leaves_compile(shape):
    abstract = jax.ShapeDtypeStruct(shape, bool)
    compiled = _mask._count_all.lower([abstract], 2**32).compile()
    assert compiled.out_info[0].shape == (4,)  # digits, for no uint32 holds the count


def test_large_leaves_beside_small_ones_and_spread_over_devices():
    large, small = jnp.ones((7, 9), bool).at[2, 3].set(False), jnp.ones((3,), bool)
    digits = _mask._count_all([large, small], 10)
    assert [_mask.from_digits(np.asarray(x)) for x in digits] == [62, 3]
    mesh = Mesh(np.array(jax.devices()), ("x",))
    spread = jax.device_put(jnp.ones((8, 9), bool), NamedSharding(mesh, PartitionSpec("x")))
    (digits,) = _mask._count_all([spread], 10)
    assert _mask.from_digits(np.asarray(digits)) == 72


def test_counts_wherever_leaves_lie():
    devices = jax.devices()
    flags = np.arange(8 * 9).reshape(8, 9) % 3 > 0
    mesh = Mesh(np.array(devices), ("x",))
    mask = {
        "default device": jnp.asarray(flags),
        "host": flags,
        "scalar": np.True_,
        "another device": jax.device_put(flags, devices[3]),
        "spread": jax.device_put(flags, NamedSharding(mesh, PartitionSpec("x"))),
        "two devices": jax.device_put(
            flags, NamedSharding(Mesh(np.array(devices[:2]), ("x",)), PartitionSpec(None))
        ),
    }
    kept = {row.path: row.kept for row in jp.metrics.sparsity_per_leaf(mask)}
    assert kept == {name: 1 if name == "scalar" else 48 for name in mask}


def test_counting_compiles_nothing_on_the_host_and_one_program_for_all_leaves_of_a_mesh():
    masks = [jnp.ones((n, 23), bool) for n in (8, 16, 24)]
    others = [~mask for mask in masks]
    with counted() as programs:
        assert jp.metrics.counts(masks) == (48 * 23, 48 * 23)
        assert jp.metrics.iou(masks, others) == 0
    assert programs.number == 0
    mesh = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))
    spread = jax.device_put(masks, mesh)
    with counted() as programs:
        assert jp.metrics.counts(spread) == (48 * 23, 48 * 23)
    assert programs.number == 1


STACKED = {"layers/.*": 0, "experts": (0, -1)}


def stacked_masks():
    rng = np.random.default_rng(0)
    shapes = {"layers/a": (8, 6, 5), "layers/b": (8, 7), "experts": (2, 9, 16), "head": (5, 4)}
    flat = {name: rng.random(shape) < 0.3 for name, shape in shapes.items()}
    layers = {"a": flat["layers/a"], "b": flat["layers/b"]}
    return {"layers": layers, "experts": flat["experts"], "head": flat["head"], "bias": None}


def unstacked(mask):
    """The same network with a leaf for every layer, named as reports name them."""
    out = {}
    for name, leaf in mask["layers"].items():
        out |= {f"layers/{name}[{i}]": x for i, x in enumerate(leaf)}
    for i, j in np.ndindex(2, 16):
        out[f"experts[{i},{j}]"] = mask["experts"][i, :, j]
    return out | {"head": mask["head"]}


def test_layers_are_counted_as_those_of_the_unstacked_network():
    mask = stacked_masks()
    truth = {path: (x.sum(), x.size) for path, x in unstacked(mask).items()}
    with counted() as programs:
        rows = jp.metrics.sparsity_per_leaf(mask, stacked=STACKED)
    assert programs.number == 0
    assert {row.path: (row.kept, row.size) for row in rows} == truth
    assert [row.path for row in rows][:2] == ["experts[0,0]", "experts[0,1]"]
    assert all(type(row.kept) is int for row in rows)
    table = jp.masks.report(jax.tree.map(np.float32, mask), mask, stacked=STACKED).splitlines()
    assert "| layers/b[3] | 7 | float32 | yes |" in "".join(table)
    assert f"| 4 of 4 leaves | {jp.metrics.counts(mask)[0]} |" in table[-1]
    weights = jax.tree.map(np.float32, mask)
    own = jp.masks.report(weights, where=lambda path, leaf: True, stacked=STACKED)
    assert own.splitlines()[1:] == table[1:]


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_layers_that_are_spread_are_counted_where_they_lie(kind):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    mask = {"layers": stacked_masks()["layers"]}
    spread = jax.device_put(mask, NamedSharding(mesh, PartitionSpec("x")))
    with counted() as programs:
        rows = jp.metrics.sparsity_per_leaf(spread, stacked={"layers/.*": 0})
    assert programs.number == 1
    assert rows == jp.metrics.sparsity_per_leaf(mask, stacked={"layers/.*": 0})
    # No flag leaves its device: what is exchanged is a number for every layer.
    leaves = jax.tree.leaves(spread)
    counter = _mask._counter(frozenset({mesh}))
    text = counter.lower(leaves, 2**32, ((0,), (0,))).compile().as_text()
    assert "pred[8," not in text
    assert "all-gather" in text  # every process can read the numbers


@pytest.mark.parametrize("own", [(0,), (1,), (0, 2)])
def test_counts_of_large_layers(own):
    leaf = np.random.default_rng(1).random((3, 7, 5)) < 0.6
    summed = tuple(axis for axis in range(3) if axis not in own)
    (digits,) = _mask._count_all([jnp.asarray(leaf)], 6, (own,))
    assert digits.shape[0] == 4
    found = sum(np.asarray(digits)[i].astype(int) << 8 * i for i in range(4))
    np.testing.assert_array_equal(found, leaf.sum(summed))


def test_a_mask_that_was_counted_can_be_donated():
    mask = {"w": jnp.ones((64, 64), bool)}
    assert jp.sparsity(mask) == 0
    jax.jit(lambda m: ~m, donate_argnums=0)(mask["w"])
    assert mask["w"].is_deleted()


def test_norm_drop_and_stability():
    before, after = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 4.0])}
    assert float(jp.metrics.relative_norm_drop(before, after)) == pytest.approx(0.6)
    assert float(jp.metrics.relative_norm_drop(before, before)) == 0.0
    zero = {"w": jnp.zeros(2)}
    assert float(jp.metrics.relative_norm_drop(zero, zero)) == 0.0
    assert jp.metrics.pruning_stability(0.3, 0.6) == 0.5


def test_bad_input():
    with pytest.raises(ValueError, match="no prunable weight"):
        jp.sparsity({"a": None})
    with pytest.raises(TypeError, match=r"'a' has dtype float32"):
        jp.sparsity({"a": jnp.ones(3)})
    with pytest.raises(ValueError, match="accuracy_before must be positive, got 0"):
        jp.metrics.pruning_stability(0.3, 0)
    with pytest.raises(ValueError, match="pruned tree"):
        jp.metrics.relative_norm_drop({"w": jnp.ones(2)}, {"v": jnp.ones(2)})
