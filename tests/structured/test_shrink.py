"""The small function: compiled, differentiated, mapped, exported, trained; and what is cut."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp
from experiments import models
from tests.programs import counted
from tests.structured.checks import close, normal, quick, random_kept, random_params


def mlp(params, x):
    h = jnp.tanh(x @ params["a"] + params["b"])
    return jax.nn.relu(h @ params["c"]) @ params["z"]


MLP = {"a": (3, 6), "b": (1, 6), "c": (6, 5), "z": (5, 2)}


def struct_of(shapes):
    return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}


@pytest.fixture(scope="module")
def net():
    """A dense network with a bias, its masks, and the small function."""
    params = random_params(struct_of(MLP))

    def apply(params, x):
        return mlp({**params, "b": jnp.broadcast_to(params["b"], (x.shape[0], 6))}, x)

    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    small_apply, small = jp.structured.shrink(apply, params, masks, normal(2, 3))
    return apply, params, groups, masks, small_apply, small


def test_called_compiled_and_differentiated(net):
    apply, params, groups, masks, small_apply, small = net
    masked, x = jp.apply_mask(params, masks), normal(2, 3)
    close(apply(masked, x), small_apply(small, x))
    close(small_apply(small, x), jax.jit(small_apply)(small, x))

    def slope_and_its_change(f):  # forward over reverse
        slope = jax.grad(lambda params: jnp.square(f(params, x)).sum())
        return quick(lambda p: jax.jvp(slope, (p,), (p,)))

    wanted = slope_and_its_change(apply)(masked)
    slope, change = slope_and_its_change(small_apply)(small)
    close(jp.structured.cut(wanted[0], groups, masks), slope)
    close(jp.structured.cut(wanted[1], groups, masks), change)
    assert jax.tree.map(jnp.shape, slope) == {"a": (3, 3), "b": (1, 3), "c": (3, 3), "z": (3, 2)}


def test_mapped_over_inputs_and_over_networks(net):
    _, _, _, _, small_apply, small = net
    xs = normal(4, 2, 3)
    factors = np.array([1, -1, 2], np.float32)
    several = jax.tree.map(lambda x: np.multiply.outer(factors, x), small)
    one = quick(small_apply)
    one_by_one = np.stack([one(small, x) for x in xs])
    close(one_by_one, quick(jax.vmap(small_apply, (None, 0)))(small, xs))
    mapped = quick(jax.vmap(small_apply, (0, None)))(several, xs[0])
    close(one(jax.tree.map(lambda x: -np.asarray(x), small), xs[0]), mapped[1])
    both = quick(jax.vmap(jax.vmap(small_apply, (None, 0)), (0, None)))(several, xs)
    close(one_by_one, both[0])


def test_other_batch_sizes_are_traced_anew_and_remembered(net):
    apply, params, _, masks, _, _ = net
    calls = []

    def counted(params, x):
        calls.append(x.shape)
        return apply(params, x)

    small_apply, small = jp.structured.shrink(counted, params, masks, normal(2, 3))
    masked, whole = jp.apply_mask(params, masks), quick(apply)
    assert calls == [(2, 3)]
    for n in (5, 1, 5, 2):
        close(whole(masked, normal(n, 3)), small_apply(small, normal(n, 3)))
    assert calls == [(2, 3), (5, 3), (1, 3)]
    jitted = jax.jit(small_apply)
    close(whole(masked, normal(7, 3)), jitted(small, normal(7, 3)))
    close(whole(masked, normal(7, 3, seed=2)), jitted(small, normal(7, 3, seed=2)))
    assert calls[3:] == [(7, 3)]


def test_other_types_of_parameters_are_traced_anew(net):
    _, _, _, _, small_apply, small = net
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small)
    assert small_apply(half, normal(2, 3).astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_numpy_arrays_and_python_scalars_are_inputs():
    def apply(params, x, factor):
        return jnp.tanh(x @ params["a"]) @ params["z"] * factor

    params = random_params(struct_of({"a": (3, 6), "z": (6, 2)}))
    x = np.ones((2, 3), np.float32)
    groups = jp.structured.channel_groups(apply, params, x, 2.0)
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    small_apply, small = jp.structured.shrink(apply, params, masks, x, 2.0)
    close(apply(jp.apply_mask(params, masks), x, 3.0), small_apply(small, x, 3.0))


def test_another_structure_at_another_shape_is_an_error():
    def apply(params, x):
        h = x @ params["a"]
        h = jnp.exp(h) if x.shape[0] < 4 else jnp.cumsum(h, axis=-1)
        return h @ params["z"]

    params = random_params(struct_of({"a": (3, 6), "z": (6, 2)}))
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    small_apply, small = jp.structured.shrink(apply, params, masks, normal(2, 3))
    small_apply(small, normal(3, 3))
    with pytest.raises(ValueError, match=r"other channels hang together .*'a' would have to be"):
        small_apply(small, normal(4, 3))


def test_export_and_back(net):
    _, _, _, _, small_apply, small = net
    exported = jax.export.export(jax.jit(small_apply))(small, normal(2, 3))
    assert "2x6" not in exported.mlir_module()
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(
        again.call(small, normal(2, 3)), jax.jit(small_apply)(small, normal(2, 3))
    )


def test_shapes_alone_are_enough(net):
    apply, params, _, masks, _, small = net
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    small_apply, shapes = jp.structured.shrink(apply, structs, masks, x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, small)
    assert jax.eval_shape(small_apply, shapes, x).shape == (2, 2)


def test_other_zeros_of_masks_stay_in_the_arrays(net):
    apply, params, groups, masks, _, _ = net
    rng = np.random.default_rng(0)
    sparse = {**masks, "c": masks["c"] & jnp.asarray(rng.random((6, 5)) < 0.8)}
    for a, b in zip(
        jp.structured.kept_of(groups, sparse), jp.structured.kept_of(groups, masks), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    small_apply, small = jp.structured.shrink(apply, params, sparse, normal(2, 3))
    assert (small["c"] == 0).any()
    close(apply(jp.apply_mask(params, sparse), normal(2, 3)), small_apply(small, normal(2, 3)))


def test_masks_of_no_say_remove_nothing(net):
    apply, params, _, _, _, _ = net
    nothing = jax.tree.map(lambda _: None, params)
    small_apply, small = jp.structured.shrink(apply, params, nothing, normal(2, 3))
    jax.tree.map(np.testing.assert_array_equal, small, params)
    close(apply(params, normal(2, 3)), small_apply(small, normal(2, 3)))


# What is compiled outside of `jit`.


def deep(params, x):
    for layer in params["body"]:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ params["z"]


@pytest.fixture(scope="module")
def deep_params():
    widths = (3, 11, 13, 17, 19)  # every layer is of another shape
    body = [{"w": normal(a, b), "b": normal(b)} for a, b in itertools.pairwise(widths)]
    return {"body": body, "z": normal(19, 2)}


def test_all_layers_are_one_program_or_none(deep_params):
    x = normal(2, 3)
    with counted() as programs:
        groups = jp.structured.channel_groups(deep, deep_params, x)
    assert programs.number <= 2  # what each kind of operation makes of zero, once in a process
    for score in (
        jp.structured.magnitude,
        jp.structured.geometric_median,
        lambda groups, params: jp.structured.taylor(groups, params, params),
    ):
        with counted() as programs:
            scores = score(groups, deep_params)
        assert programs.number == 1
    with counted() as programs:
        masks = jp.structured.masks(groups, jp.structured.select(groups, scores, 0.5))
        _, small = jp.structured.shrink(deep, deep_params, masks, x)
        jp.structured.cut(deep_params, groups, masks)
    assert programs.number == 0
    assert small["z"].shape == (9, 2)


def test_spread_and_traced_parameters_are_cut_like_those_of_the_host(deep_params):
    groups = jp.structured.channel_groups(deep, deep_params, normal(2, 3))
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    want = jp.structured.cut(deep_params, groups, masks)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.device_put(deep_params, everywhere)
    with counted() as programs:
        cut = jp.structured.cut(spread, groups, masks)
    assert programs.number == 1
    assert all(x.sharding.device_set == set(jax.devices()) for x in jax.tree.leaves(cut))
    traced = jax.jit(lambda params: jp.structured.cut(params, groups, masks))(deep_params)
    on_host = jp.structured.cut(jax.tree.map(np.asarray, deep_params), groups, masks)
    for other in (cut, traced, on_host):
        jax.tree.map(np.testing.assert_array_equal, other, want)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(on_host))


# Training goes on.


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(6, (3,), use_bias=False)(x)
        x = jax.nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(3)(x.mean(1))


def apply_net(variables, x, key):
    return Net().apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})


@pytest.fixture(scope="module")
def trainable():
    x, key = normal(4, 5, 3), jax.random.key(3)
    structs = jax.eval_shape(lambda: Net().init({"params": key}, x, train=False))
    variables = random_params(structs)
    groups = jp.structured.channel_groups(apply_net, variables, x, key)
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    small_apply, small = jp.structured.shrink(apply_net, variables, masks, x, key)
    return variables, groups, masks, small_apply, small


def train(apply, variables, tx, state, steps):
    @quick
    @jax.numpy_dtype_promotion("standard")  # optax counts on it
    def step(variables, state, x, key):
        def loss(params):
            out, new = apply({**variables, "params": params}, x, key)
            return jnp.square(out - 1.0).mean(), new

        slope, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = tx.update(slope, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **new}, state

    for i in steps:
        variables, state = step(variables, state, normal(4, 5, 3, seed=i), jax.random.key(i))
    return variables, state


@pytest.mark.parametrize(
    "optimizer",
    [lambda: optax.adam(0.03), lambda: optax.sgd(0.05, momentum=0.9, nesterov=True)],
    ids=["adam", "momentum"],
)
def test_retraining_equals_that_of_the_masked_network(trainable, optimizer):
    variables, groups, masks, small_apply, _ = trainable

    def cut(tree):
        return jp.structured.cut(tree, groups, masks)

    # Before: the dense network, so that there is a state to be cut.
    tx = optimizer()
    variables, state = train(apply_net, variables, tx, tx.init(variables["params"]), range(2))
    masked = jp.apply_mask(variables, masks)
    small, small_state = cut(masked), cut(state)
    assert jax.tree.structure(small_state) == jax.tree.structure(state)
    assert small["batch_stats"]["BatchNorm_0"]["mean"].shape == (3,)

    fixed = jp.transforms.fixed_mask(tx, masks["params"])
    state = fixed.init(masked["params"])._replace(inner_state=state)
    masked, state = train(apply_net, masked, fixed, state, range(2, 6))
    small, small_state = train(small_apply, small, tx, small_state, range(2, 6))
    close(cut(masked), small, 1e-4)
    close(cut(state.inner_state), small_state, 1e-4)


def test_running_statistics_are_returned_small(trainable):
    variables, groups, masks, small_apply, small = trainable
    x, key = normal(4, 5, 3), jax.random.key(5)
    _, state = quick(small_apply)(small, x, key)
    assert jax.tree.map(jnp.shape, dict(state)) == {
        "batch_stats": {"BatchNorm_0": {"mean": (3,), "var": (3,)}}
    }
    _, wanted = quick(apply_net)(jp.apply_mask(variables, masks), x, key)
    close(jp.structured.cut(wanted, groups, masks), state)


# What is cut.


def test_cut_goes_through_wrappers_of_optimizers(trainable):
    variables, groups, masks, _, small = trainable
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.adamw(1e-3), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
        optax.ema(0.9),
    )
    state = jp.structured.cut(tx.init(variables["params"]), groups, masks)
    fresh = tx.init(small["params"])
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)


def test_cut_of_masks_themselves(trainable):
    _, groups, masks, _, small = trainable
    ours = jp.structured.cut(masks, groups, masks)
    assert all(m.all() for m in jax.tree.leaves(ours))
    assert ours["params"]["Conv_0"]["kernel"].shape == small["params"]["Conv_0"]["kernel"].shape


def test_cut_leaves_what_belongs_to_no_parameter(trainable):
    _, groups, masks, _, _ = trainable
    tree = {"step": jnp.int32(3), "history": normal(6, 6), "params": None}
    jax.tree.map(np.testing.assert_array_equal, jp.structured.cut(tree, groups, masks), tree)


@pytest.mark.parametrize("smallest", [2, 128])
def test_cut_of_factored_statistics_is_an_error(trainable, smallest):
    variables, groups, masks, _, _ = trainable
    tx = optax.adafactor(1e-3, min_dim_size_to_factor=smallest)
    state = tx.init(variables["params"])
    with pytest.raises(ValueError, match=r"v_row/.* initialise it anew with the small"):
        jp.structured.cut(state, groups, masks)


# Modules with other widths.


def apply_of(model):
    return lambda variables, x: model.apply(variables, x, train=False)


def shrunk_and_cut(model, x, keep_all=()):
    params = random_params(
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    )
    groups = jp.structured.channel_groups(apply_of(model), params, x)
    kept = random_kept(groups, 0.4)
    for name in keep_all:
        kept[groups.index(name)][:] = True
    masks = jp.structured.masks(groups, kept)
    small_apply, small = jp.structured.shrink(apply_of(model), params, masks, x)
    cut = jp.structured.cut(params, groups, masks)
    jax.tree.map(np.testing.assert_array_equal, cut, small)
    return jp.structured.widths(groups, masks), cut, quick(small_apply)(small, x)


def test_a_resnet_with_other_inner_widths():
    x = normal(2, 8, 8, 3)
    model = models.ResNet(10, 1, widths=(4, 6, 8))
    # The stream between the blocks stays as wide as it is: the module cannot make it narrower.
    widths, cut, result = shrunk_and_cut(model, x, keep_all=["params/conv_in/kernel"])
    inner = tuple(widths[f"params/stage{stage}_block0/conv0/kernel"] for stage in range(3))
    assert inner == (2, 4, 5)
    rebuilt = models.ResNet(10, 1, widths=(4, 6, 8), inner_widths=inner)
    np.testing.assert_array_equal(quick(apply_of(rebuilt))(cut, x), result)


def test_a_vgg_with_other_widths():
    x = normal(2, 16, 16, 3)
    model = models.VGG16(10, widths=(5,) * 13, hidden_width=5)
    widths, cut, result = shrunk_and_cut(model, x)
    rebuilt = models.VGG16(
        10,
        widths=tuple(widths[f"params/conv{i}/kernel"] for i in range(13)),
        hidden_width=widths["params/dense_hidden/kernel"],
    )
    assert set(rebuilt.widths) == {3}
    np.testing.assert_array_equal(quick(apply_of(rebuilt))(cut, x), result)


# Masks and the units that stay.


def fused_heads(params, x):
    parts = (x @ params["qkv"]).reshape(2, 5, 3, 3, 4)
    q, k, v = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), axis=-1)
    h = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 5, 12)
    return jnp.concatenate([h, jnp.tanh(x @ params["side"])], -1) @ params["out"]


@st.composite
def kept_units(draw, sizes):
    kept = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in sizes]
    for stays in kept:
        stays[draw(st.integers(0, len(stays) - 1))] = True
    return [np.array(stays) for stays in kept]


FUSED = {"qkv": (3, 36), "side": (3, 5), "out": (17, 3)}


@given(kept_units((3, 5, 4)))
def test_masks_tell_which_units_stay(kept):
    heads, side, features = kept
    groups = fused_groups()
    # Heads and the units beside them are read by one axis: they make one group.
    assert [g.size for g in groups] == [8, 4]
    kept = [np.concatenate([heads, side]), features]
    masks = jp.structured.masks(groups, kept)
    for a, b in zip(jp.structured.kept_of(groups, masks), kept, strict=True):
        np.testing.assert_array_equal(a, b)
    # A head's feature stays if the head and the feature do.
    both = np.outer(heads, features).ravel()
    np.testing.assert_array_equal(masks["qkv"], np.tile(both, (3, 3)))
    np.testing.assert_array_equal(masks["out"][:, 0], np.concatenate([both, side]))
    widths = {"qkv": 3 * int(both.sum()), "side": int(side.sum())}
    assert jp.structured.widths(groups, masks) == widths


_found = []


def fused_groups():
    if not _found:
        x = jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)
        _found.append(jp.structured.channel_groups(fused_heads, struct_of(FUSED), x))
    return _found[0]


def test_a_unit_may_lose_all_positions_of_one_axis_to_others():
    """Of the features of heads only the padded one is left; the head is still no removed one."""

    def apply(params, x):
        q = jnp.einsum("bc,chd->bhd", x, params["q"])
        v = jnp.einsum("bc,chd->bhd", x, params["v"])
        h = jnp.concatenate([q, v], -1).reshape(2, -1)
        return h @ params["out"], (x @ params["q"].reshape(3, -1)) @ params["other"]

    params = random_params(
        struct_of({"q": (3, 2, 3), "v": (3, 2, 2), "out": (10, 2), "other": (6, 2)})
    )
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    assert [g.size for g in groups] == [2, 5]
    kept = [np.array([True, True]), np.array([True, False, False, False, True])]
    masks = jp.structured.masks(groups, kept)
    small_apply, small = jp.structured.shrink(apply, params, masks, normal(2, 3))
    close(apply(jp.apply_mask(params, masks), normal(2, 3)), small_apply(small, normal(2, 3)))
