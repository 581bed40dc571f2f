"""Statistics of what enters products, against the rows written out by hand."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from tests.layerwise import networks

lw = jp.layerwise


def rows(xs):
    return np.concatenate([np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in xs])


def close(a, b, tolerance=1e-5):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()))


def test_each_kind_is_that_of_the_rows():
    apply, params = networks.mlp()
    batches = networks.batches((7, 6))
    hidden = rows(jnp.tanh(x @ params["a"]["w"] + 1.0) for x in batches)
    for path, x in (("a/w", rows(batches)), ("b/w", hidden)):
        found = {
            kind: lw.statistics(apply, params, batches, kind=kind)[path]
            for kind in ("norms", "moments", "gram")
        }
        assert [s.rows for s in found.values()] == [21] * 3
        close(found["norms"].squares, np.square(x).sum(0))
        close(found["moments"].mean, x.mean(0))
        close(found["moments"].variance, x.var(0))
        close(found["gram"].gram, x.T @ x)
        assert found["gram"].squares is found["norms"].gram is found["gram"].mean is None


def test_variance_survives_a_large_mean():
    params = {"w": jnp.ones((2, 2))}
    batches = [x + 1000.0 for x in networks.batches((50, 2), n=4)]
    found = lw.statistics(lambda p, x: x @ p["w"], params, batches, kind="moments")["w"]
    close(found.variance, rows(batches).var(0), 1e-4)


CONVOLUTIONS = {
    "plain": {},
    "strides": {"strides": 2},
    "dilated": {"kernel_dilation": 2, "padding": "VALID"},
    "grouped": {"feature_group_count": 2},
    "transposed": {"input_dilation": 2, "padding": [(1, 1), (1, 0)]},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_a_product_with_its_windows(name):
    """|y|^2 = tr(K^T G K), and the rows are those of every position."""
    layer = nn.Conv(4, (3, 2), use_bias=False, **CONVOLUTIONS[name])
    batches = networks.batches((2, 6, 5, 4), n=2)
    params = layer.init(jax.random.key(0), batches[0])
    found = lw.statistics(layer.apply, params, batches)["params/kernel"]
    outputs = [layer.apply(params, x) for x in batches]
    kernel = np.asarray(params["params"]["kernel"])  # [h, w, in, out], inputs first in a row
    groups = CONVOLUTIONS[name].get("feature_group_count", 1)
    matrix = kernel.transpose(2, 0, 1, 3).reshape(-1, groups, 4 // groups).swapaxes(0, 1)
    gram = np.asarray(found.gram).reshape(groups, matrix.shape[1], matrix.shape[1])
    whole = np.concatenate([rows([y]) for y in outputs])
    for g in range(groups):
        own = whole[:, g * (4 // groups) : (g + 1) * (4 // groups)]
        close(matrix[g].T @ gram[g] @ matrix[g], own.T @ own, 1e-4)
    assert found.rows == len(whole)


def test_layers_of_a_scan_have_statistics_each_and_share_a_program():
    batches = networks.batches((2, 5, 8))
    model, plain = networks.Scanned(), networks.Unrolled()
    params = model.init(jax.random.key(1), batches[0])
    found = lw.statistics(model.apply, params, batches)
    other = lw.statistics(plain.apply, networks.unstacked(params), batches)
    assert len(found) == len(other) == 3 * 6 + 1
    for name, one in found.items():
        path, _, k = name.rstrip("]").partition("[")
        path = path.replace("layers", f"layers_{k}") if k else path
        close(one.gram, other[path].gram, 1e-4)


def test_heads_experts_and_embeddings():
    """Products side by side have matrices each; what is looked up has none."""

    def apply(params, tokens):
        x = params["embedding"][tokens]  # [b, t, 6]
        h = jnp.einsum("btd,edf->ebtf", x, params["experts"]["w"])
        return jnp.einsum("ebtf,efd->ebtd", jnp.tanh(h), params["out"]["w"])

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "embedding": jax.random.normal(keys[0], (11, 6)),
        "experts": {"w": jax.random.normal(keys[1], (3, 6, 5))},
        "out": {"w": jax.random.normal(keys[2], (3, 5, 6))},
    }
    tokens = jnp.arange(8).reshape(2, 4)
    found = lw.statistics(apply, params, [tokens])
    assert set(found) == {"experts/w", "out/w"}
    x = params["embedding"][tokens].reshape(-1, 6)
    h = jnp.tanh(jnp.einsum("nd,edf->enf", x, params["experts"]["w"]))
    close(found["out/w"].gram, jnp.einsum("enf,eng->efg", h, h))
    close(found["experts/w"].gram, x.T @ x)


def test_nnx_and_equinox():
    x = networks.batches((3, 6), n=2)
    model = nnx.Sequential(
        nnx.Linear(6, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 2, rngs=nnx.Rngs(1))
    )
    graphdef, state = nnx.split(model)
    found = lw.statistics(lambda s, x: nnx.merge(graphdef, s)(x), state, x)
    hidden = rows(model.layers[1](model.layers[0](b)) for b in x)
    close(found["layers/2/kernel/value"].gram, hidden.T @ hidden)
    net = eqx.nn.MLP(6, 2, 5, 1, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_array)
    found = lw.statistics(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, x)
    whole = rows(x)
    close(found["layers/0/weight"].gram, whole.T @ whole)


def test_narrow_weights_have_wide_statistics():
    params = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    x = jnp.full((4096, 2), 1.0, jnp.bfloat16)
    found = lw.statistics(lambda p, x: x @ p["w"], params, [x, x])["w"]
    assert found.gram.dtype == jnp.float32
    assert found.gram.tolist() == [[8192.0, 8192.0]] * 2


def test_the_same_on_one_and_on_eight_devices():
    apply, params = networks.mlp()
    batches = networks.batches((16, 6))
    mesh = Mesh(np.array(jax.devices()), ("x",))
    there = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("x"))) for x in batches]
    spread = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    one, eight = (lw.statistics(apply, *a) for a in ((params, batches), (spread, there)))
    for name, found in one.items():
        close(eight[name].gram, found.gram)


def test_what_cannot_be_followed_is_refused():
    x = [jnp.ones((2, 4))]
    w = {"w": jnp.ones((4, 4)), "v": {"w": jnp.ones((4, 4))}}
    with pytest.raises(ValueError, match=r"'w' is used by 2 products.*tied"):
        lw.statistics(lambda p, x: x @ p["w"] @ p["w"] @ p["v"]["w"], w, x)
    with pytest.raises(ValueError, match=r"no product uses: \['w'\]"):
        lw.statistics(lambda p, x: x @ p["v"]["w"], w, x)
    with pytest.raises(ValueError, match=r"no product uses a prunable leaf: .*call tanh"):
        lw.statistics(lambda p, x: jnp.tanh(x), w, x)
    with pytest.raises(ValueError, match=r"'w' is used by dot_general.* cannot be followed"):
        lw.statistics(lambda p, x: x @ jnp.tanh(p["w"]) @ p["v"]["w"], w, x)

    def loop(p, x):
        return (
            jax.lax.while_loop(lambda c: c.sum() < 100, lambda c: c @ p["w"] + 1, x) @ p["v"]["w"]
        )

    with pytest.raises(ValueError, match=r"'w' is used by while .a loop whose rounds depend"):
        lw.statistics(loop, w, x)

    def recurrent(p, x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), x, None, length=3)[0]

    with pytest.raises(ValueError, match="'w' is used by 3 products"):
        lw.statistics(recurrent, {"w": w["w"]}, x)
    with pytest.raises(ValueError, match="batch 1 has other shapes"):
        lw.statistics(lambda p, x: x @ p["w"], {"w": w["w"]}, [*x, jnp.ones((3, 4))])
    with pytest.raises(ValueError, match="`batches` is empty"):
        lw.statistics(lambda p, x: x @ p["w"], {"w": w["w"]}, [])
    with pytest.raises(TypeError, match=r"Pass \[batch\]"):
        lw.statistics(lambda p, x: x @ p["w"], {"w": w["w"]}, x[0])
    bad = [*x, jnp.full((2, 4), jnp.nan)]
    with pytest.raises(ValueError, match="what enters 'w' is NaN or infinite in batch 1"):
        lw.statistics(lambda p, x: x @ p["w"], {"w": w["w"]}, bad)
