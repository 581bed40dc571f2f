"""The report: what is prunable, and how sparse it is."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from tests.programs import counted

PARAMS = {
    "kernel": jnp.array([[1.0, 0.0], [-0.0, jnp.nan]]),
    "bias": jnp.zeros(2),
    "step": jnp.zeros((), jnp.int32),
}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows(table):
    lines = table.splitlines()
    header = cells(lines[0])
    return {cells(x)[0]: dict(zip(header, cells(x), strict=True)) for x in lines[2:]}


def test_with_a_mask_what_it_keeps():
    mask = {"kernel": jnp.array([[True, True], [True, False]]), "bias": None, "step": None}
    table = rows(jp.masks.report(PARAMS, mask))
    assert table["kernel"]["kept"] == "3"  # zeros that are kept count
    assert table["kernel"]["sparsity"] == "0.2500"
    assert table["bias"] == {
        "leaf": "bias", "shape": "2", "dtype": "float32",
        "prunable": "no", "kept": "2", "sparsity": "",
    }  # fmt: skip
    assert table["step"]["shape"] == "scalar"
    assert table["all prunable"]["prunable"] == "1 of 3 leaves"
    assert table["all prunable"]["kept"] == "3"


def test_without_a_mask_the_share_of_exact_zeros():
    table = rows(jp.masks.report(PARAMS))
    assert table["kernel"]["nonzero"] == "2"  # -0.0 is zero, NaN is not
    assert table["kernel"]["sparsity"] == "0.5000"
    assert (table["bias"]["nonzero"], table["bias"]["sparsity"]) == (
        "",
        "",
    )
    assert table["step"]["nonzero"] == ""
    assert (table["all prunable"]["nonzero"], table["all prunable"]["sparsity"]) == ("2", "0.5000")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_every_dtype_and_denormals(dtype):
    smallest = float(jnp.finfo(dtype).smallest_subnormal)
    with jax.numpy_dtype_promotion("standard"):
        values = jnp.asarray(np.array([[0.0, smallest, 1.0]]).astype(dtype))
        table = rows(jp.masks.report({"w": values}))
    assert table["w"]["nonzero"] == "2"


def test_numpy_and_sharded_parameters():
    values = np.eye(8, dtype=np.float32)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    for w in (values, jax.device_put(values, sharding)):
        assert rows(jp.masks.report({"w": w}))["w"]["sparsity"] == "0.8750"


def test_abstract_parameters_show_sizes():
    abstract = jax.eval_shape(lambda: PARAMS)
    table = rows(jp.masks.report(abstract))
    assert (table["kernel"]["size"], table["kernel"]["sparsity"]) == ("4", "")
    assert (table["bias"]["size"], table["bias"]["prunable"]) == ("2", "no")
    assert (table["all prunable"]["size"], table["all prunable"]["sparsity"]) == ("4", "")
    mask = {"kernel": jnp.array([[True, False], [False, False]]), "bias": None, "step": None}
    assert rows(jp.masks.report(abstract, mask))["kernel"]["sparsity"] == "0.7500"
    traced = []
    jax.jit(lambda params: traced.append(jp.masks.report(params)))(PARAMS)
    assert rows(traced[0]) == table


def test_where_and_errors():
    everything = rows(jp.masks.report(PARAMS, where=lambda path, leaf: path != "step"))
    assert everything["bias"]["prunable"] == "yes"
    assert everything["all prunable"]["sparsity"] == "0.6667"
    with pytest.raises(ValueError, match="no prunable leaf among 1"):
        jp.masks.report({"bias": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"mask is of another tree.*'kernel'"):
        jp.masks.report(PARAMS, {"bias": None, "other": jnp.ones(2, bool), "step": None})
    with pytest.raises(TypeError, match="'kernel' has dtype float32"):
        jp.masks.report(PARAMS, {"kernel": jnp.ones((2, 2)), "bias": None, "step": None})


def test_layers_that_are_stacked_have_rows():
    params = {
        "blocks": {"kernel": jnp.ones((2, 3, 4)).at[1, :2].set(0.0)},
        "out": jnp.zeros((2, 2)),
    }
    where = lambda path, leaf: leaf.ndim > 1  # noqa: E731
    rows = jp.masks.report(params, where=where, stacked={"blocks/.*": 0}).splitlines()[2:]
    assert rows == [
        "| blocks/kernel[0] | 3x4 | float32 | yes | 12 | 0.0000 |",
        "| blocks/kernel[1] | 3x4 | float32 | yes | 4 | 0.6667 |",
        "| out | 2x2 | float32 | yes | 0 | 1.0000 |",
        "| all prunable | | | 2 of 2 leaves | 16 | 0.4286 |",
    ]
    mask = jax.tree.map(lambda x: x != 0, params)
    rows = jp.metrics.sparsity_per_leaf(mask, stacked={"blocks/.*": 0})
    assert [(r.path, r.kept, r.size) for r in rows] == [
        ("blocks/kernel[0]", 12, 12),
        ("blocks/kernel[1]", 4, 12),
        ("out", 0, 4),
    ]
    assert "| blocks/kernel[1] | 3x4 | float32 | yes | 4 |" in jp.masks.report(
        params, mask, stacked={"blocks/.*": 0}
    )
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    spread = jax.device_put(mask["blocks"]["kernel"], NamedSharding(mesh, PartitionSpec("x")))
    found = jp.metrics.sparsity_per_leaf({"blocks": {"kernel": spread}}, stacked={"blocks/.*": 0})
    assert [r.kept for r in found] == [12, 4]
    with pytest.raises(ValueError, match="matches no prunable leaf"):
        jp.masks.report(params, where=where, stacked={"layers": 0})


@pytest.mark.parametrize("bits", ["float8_e4m3b11fnuz", "float8_e8m0fnu", "float4_e2m1fn"])
def test_zeros_of_types_that_have_one_or_none(bits):
    """Where -0.0 would be, some types have NaN; one has no zero at all."""
    dtype = np.dtype(getattr(ml_dtypes, bits))
    values = np.arange(16 if "4_" in bits[:7] else 256, dtype=np.uint8).view(dtype).reshape(2, -1)
    nonzero = np.count_nonzero(~(values.astype(np.float64) == 0))
    mesh = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("x",)), PartitionSpec("x"))
    for w in (values, jnp.asarray(values), jax.device_put(values, mesh)):
        assert rows(jp.masks.report({"w": w}))["w"]["nonzero"] == str(nonzero)


def test_numpy_weights_are_counted_as_they_are():
    """JAX would make float32 of float64, and a zero of what is small."""
    assert rows(jp.masks.report({"w": np.array([[1e-300, 0.0]])}))["w"]["nonzero"] == "1"


def test_a_report_compiles_nothing_on_the_host():
    params = {f"w{n}": jnp.ones((n, 29)) for n in range(2, 6)}
    with counted() as programs:
        jp.masks.report(params)
    assert programs.number == 0


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "float8_e4m3fn", "bfloat16"])
def test_narrow_weights(dtype):
    values = np.array([[0.0, -0.0, 1.0, 0.5]]).astype(getattr(ml_dtypes, dtype))
    row = jp.masks.report({"kernel": jnp.asarray(values)}).splitlines()[2]
    assert row == f"| kernel | 1x4 | {dtype} | yes | 2 | 0.5000 |"
