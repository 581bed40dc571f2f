"""Networks of other frameworks and other people's layers: nothing about them is known here."""

import functools
import itertools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from tests.structured.checks import check_shrunk, normal, random_params


def images(batch=2, side=8, channels=3):
    return normal(batch, side, side, channels)


def sequences(batch=2, length=5, width=3):
    return normal(batch, length, width)


def check(apply, params, *inputs, expected, other=None, fraction=0.5, **options):
    """The groups have these sizes, in any order of names, and are exact."""
    params = random_params(params)
    groups = jp.structured.channel_groups(apply, params, *inputs)
    assert sorted(g.size for g in groups) == sorted(expected), str(groups)
    small = check_shrunk(apply, params, inputs, fraction, groups=groups, other=other, **options)
    return groups, small


# Flax NNX.


def of_nnx(make):
    """The state of a module, and a pure function of it that returns the new state, too."""
    module = nnx.jit(make)()
    graph, state = nnx.split(module)

    def apply(state, x):
        merged = nnx.merge(graph, state)
        out = merged(x)
        return out, nnx.state(merged)

    return apply, state


class NNXNet(nnx.Module):
    def __init__(self, norm, rngs):
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = norm(8, rngs=rngs)
        self.second = nnx.Conv(8, 6, (3, 3), strides=2, feature_group_count=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.gelu(self.norm(self.first(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.last(self.dropout(self.second(x).mean((1, 2))))


class NNXTransformer(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 6, rngs=rngs)
        self.norm = nnx.RMSNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=3, in_features=6, qkv_features=12, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(6, 10, rngs=rngs)
        self.down = nnx.Linear(10, 6, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(tokens))
        return self.embed.attend(x + self.down(jax.nn.relu(self.up(x))))


@pytest.mark.parametrize("train", [True, False])
def test_nnx_convolutions_with_batch_norm(train):
    def make():
        module = NNXNet(nnx.BatchNorm, nnx.Rngs(0))
        module.train() if train else module.eval()
        return module

    # A group of the second convolution is four channels of the first and three of its own.
    groups, small = check(*of_nnx(make), images(), expected=[2, 4, 3], gradients=not train)
    assert small["norm"]["mean"].shape == small["norm"]["scale"].shape
    made = [m.path for g in groups for m in g.members]
    assert {"first/kernel/value", "norm/mean/value", "norm/var/value"} <= set(made)


def test_nnx_convolutions_with_group_norm():
    norm = functools.partial(nnx.GroupNorm, num_groups=4, use_fast_variance=True)
    apply, state = of_nnx(lambda: NNXNet(norm, nnx.Rngs(0)))
    groups = jp.structured.channel_groups(apply, state, images())
    assert len(groups) == 3
    check_shrunk(apply, random_params(state), (images(),), 0.5, groups=groups)


def test_nnx_transformer():
    tokens = jnp.arange(10).reshape(2, 5) % 7
    # Features of the stream, heads, features of queries and of values, and the hidden layer.
    check(
        *of_nnx(lambda: NNXTransformer(nnx.Rngs(0))), tokens, expected=[6, 3, 4, 4, 10],
        gradients=False,
    )  # fmt: skip


# Equinox.


def of_equinox(module):
    """The module's arrays, and a pure function of them, mapped over the batch."""
    params, rest = eqx.partition(module, eqx.is_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, rest))(x)

    return apply, params


class EquinoxTransformer(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.attention = eqx.nn.MultiheadAttention(3, 6, qk_size=4, vo_size=5, key=keys[0])
        self.norm = eqx.nn.LayerNorm(6)
        self.mlp = eqx.nn.MLP(6, 6, 10, 2, key=keys[1])

    def __call__(self, x):
        h = jax.vmap(self.norm)(x)
        x = x + self.attention(h, h, h)
        return x + jax.vmap(self.mlp)(x)


@pytest.mark.slow
def test_equinox_convolutions_with_group_norm():
    keys = jax.random.split(jax.random.key(0), 4)
    module = eqx.nn.Sequential([
        eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0]),
        eqx.nn.GroupNorm(4, 8),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.MaxPool2d(2, 2),
        eqx.nn.ConvTranspose2d(8, 6, 2, stride=2, key=keys[1]),
        eqx.nn.Lambda(eqx.nn.PReLU()),
        eqx.nn.Conv2d(6, 6, 3, groups=6, key=keys[2]),
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(216, 4, key=keys[3]),
    ])  # fmt: skip
    x = images().transpose(0, 3, 1, 2)
    apply, params = of_equinox(module)
    groups = jp.structured.channel_groups(apply, params, x)
    assert groups["layers/4/weight"].size == 6
    check_shrunk(apply, random_params(params), (x,), 0.5, groups=groups, gradients=False)


def test_equinox_batch_norm():
    keys = jax.random.split(jax.random.key(0), 2)

    class Net(eqx.Module):
        first: eqx.nn.Conv1d
        norm: eqx.nn.BatchNorm
        last: eqx.nn.Conv1d

        def __call__(self, x, state):
            x, state = self.norm(self.first(x), state)
            return self.last(jax.nn.relu(x)), state

    def make():
        return Net(
            eqx.nn.Conv1d(3, 8, 3, key=keys[0]),
            eqx.nn.BatchNorm(8, axis_name="batch", mode="batch"),
            eqx.nn.Conv1d(8, 4, 3, key=keys[1]),
        )

    module, state = eqx.nn.make_with_state(make)()
    arrays, rest = eqx.partition(module, eqx.is_array)

    def apply(variables, x):
        module = eqx.combine(variables["module"], rest)
        mapped = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        out, state = mapped(x, variables["state"])
        return out, {"state": state}

    variables = {"module": arrays, "state": state}
    x = sequences(2, 3, 9)
    groups = jp.structured.channel_groups(apply, variables, x)
    assert groups["module/first/weight"].size == 8
    check_shrunk(apply, variables, (x,), 0.5, groups=groups)


@pytest.mark.slow
def test_equinox_transformer():
    module = EquinoxTransformer(jax.random.key(0))
    # Heads, features of queries and of values, two hidden layers, and the stream, whose norm takes
    # the variance in two passes.
    groups, _ = check(
        *of_equinox(module), sequences(width=6), expected=[3, 4, 5, 10, 10],
        other=(sequences(1, width=6),), gradients=False,
    )  # fmt: skip
    assert any("norm/weight" in f.path for f in groups.fixed)


def test_equinox_recurrent_cell():
    cell = eqx.nn.GRUCell(3, 6, key=jax.random.key(0))
    params, rest = eqx.partition(cell, eqx.is_array)

    def apply(params, x):
        cell = eqx.combine(params["cell"], rest)
        step = jax.vmap(lambda x: jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(6), x)[0])
        return step(x) @ params["out"]

    variables = {"cell": params, "out": jax.ShapeDtypeStruct((6, 2), jnp.float32)}
    check(apply, variables, sequences(), expected=[6], other=(sequences(3),))


# Haiku.


def of_haiku(function, *inputs):
    """The parameters and the state, and a pure function of both."""
    transformed = hk.transform_with_state(function)
    with jax.numpy_dtype_promotion("standard"):
        params, state = jax.eval_shape(transformed.init, jax.random.key(0), *inputs)

    @jax.numpy_dtype_promotion("standard")  # Haiku counts on it
    def apply(variables, *inputs):
        return transformed.apply(
            variables["params"], variables["state"], jax.random.key(1), *inputs
        )

    return apply, {"params": params, "state": state}


@pytest.mark.parametrize("train", [True, False])
def test_haiku_convolutions_with_batch_norm(train):
    def net(x):
        x = hk.Conv2D(8, 3)(x)
        norm = hk.BatchNorm(True, True, 0.9)
        x = jax.nn.relu(norm(x, is_training=train or hk.running_init()))
        x = hk.DepthwiseConv2D(1, 3)(x)
        x = hk.AvgPool((2, 2, 1), (2, 2, 1), "SAME")(x)
        x = hk.Conv2DTranspose(6, 2)(x)
        x = hk.GroupNorm(3)(x)
        return hk.Linear(4)(hk.dropout(hk.next_rng_key(), 0.2, x.mean((1, 2))))

    apply, variables = of_haiku(net, images())
    groups = jp.structured.channel_groups(apply, variables, images())
    assert groups["params/conv2_d/w"].size == 8
    averages = [m.path for m in groups["params/conv2_d/w"].members if "average" in m.path]
    assert len(averages) == 2
    assert any(m.role == "along" for m in groups["params/conv2_d/w"].members)
    check_shrunk(
        apply, random_params(variables), (images(),), 0.5, groups=groups, gradients=not train,
        other=(images(3),) if train else None,
    )  # fmt: skip


@pytest.mark.slow
def test_haiku_transformer():
    def net(tokens):
        x = hk.Embed(7, 6)(tokens)
        x = x + hk.get_parameter("positions", (5, 6), init=jnp.zeros)[None]
        attention = hk.MultiHeadAttention(
            3, 4, w_init=hk.initializers.VarianceScaling(1.0), model_size=6
        )
        h = hk.RMSNorm(-1)(x)
        x = x + attention(h, h, h, jnp.tril(jnp.ones((1, 1, 5, 5), bool)))
        return hk.Linear(4)(x + hk.Linear(6)(jax.nn.silu(hk.Linear(10)(x))))

    tokens = jnp.arange(10).reshape(2, 5) % 7
    check(*of_haiku(net, tokens), tokens, expected=[6, 3, 4, 4, 10])


def test_haiku_recurrent_network():
    def net(x):
        core = hk.LSTM(6)
        h, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        return hk.Linear(2)(h[:, -1])

    check(*of_haiku(net, sequences()), sequences(), expected=[6])


# Flax Linen's own layers.


def of_linen(module, *inputs, train=None):
    """The variables, and a pure function of them that returns the new state, too."""
    options = {} if train is None else {"train": train}
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda: module.init(keys, *inputs, **options))

    def apply(variables, *inputs):
        mutable = [name for name in variables if name != "params"]
        return module.apply(
            variables, *inputs, **options, mutable=mutable, rngs={"dropout": jax.random.key(2)}
        )

    return apply, variables


class Between(nn.Module):
    """Two convolutions, and something between them."""

    between: nn.Module
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3,), name="first")(x)
        x = jax.nn.relu(self.between(x))
        return nn.Conv(2, (3,), name="last")(x)


LAYERS = {
    # name: (layer, sizes of the groups)
    "batch norm": (lambda: nn.BatchNorm(use_running_average=False), [8]),
    "group norm": (lambda: nn.GroupNorm(num_groups=4), [4, 2]),
    "group norm, two passes": (
        lambda: nn.GroupNorm(num_groups=4, use_fast_variance=False),
        [4, 2],
    ),
    "instance norm": (lambda: nn.InstanceNorm(), [8]),
    "layer norm": (lambda: nn.LayerNorm(), [8]),
    "layer norm, two passes": (lambda: nn.LayerNorm(use_fast_variance=False), [8]),
    "rms norm": (lambda: nn.RMSNorm(), [8]),
    "batch norm at inference": (lambda: nn.BatchNorm(use_running_average=True), [8]),
    "transposed convolution": (lambda: nn.ConvTranspose(6, (2,), strides=(2,)), [8, 6]),
    "depthwise convolution": (lambda: nn.Conv(8, (3,), feature_group_count=8), [8]),
    "grouped convolution": (lambda: nn.Conv(6, (3,), feature_group_count=2), [2, 4, 3]),
    "local convolution": (lambda: nn.ConvLocal(6, (3,)), [8, 6, 3]),
    "dense": (lambda: nn.Dense(6), [8, 6]),
    "several axes": (lambda: nn.DenseGeneral(6, axis=(-1,)), [8, 6]),
    "dropout": (lambda: nn.Dropout(0.4, deterministic=False), [8]),
    "dropout of channels": (lambda: nn.Dropout(0.4, broadcast_dims=(1,), deterministic=False), [8]),
    "gru": (lambda: nn.RNN(nn.GRUCell(6)), [8, 6]),
    "simple": (lambda: nn.RNN(nn.SimpleCell(6), reverse=True), [8, 6]),
    "convolutional lstm": (
        lambda: nn.Sequential([
            lambda x: x[:, :, None],
            nn.RNN(nn.ConvLSTMCell(6, (1,))),
            lambda x: x[:, :, 0],
        ]),
        [8, 6],
    ),
    "bidirectional": (
        lambda: nn.Bidirectional(nn.RNN(nn.SimpleCell(4)), nn.RNN(nn.SimpleCell(5))),
        [8, 9],
    ),
    "attention": (lambda: nn.MultiHeadDotProductAttention(3, qkv_features=12), [8, 3, 4, 4, 8]),
    "gated": (lambda: nn.Sequential([nn.Dense(8), nn.glu]), [8, 4]),
    "prelu": (lambda: nn.PReLU(), [8]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_linen_layers(name):
    check_layer(name, gradients=name in ("batch norm", "grouped convolution", "gru"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_of_linen_layers(name):
    check_layer(name, gradients=True)


def check_layer(name, gradients):
    layer, expected = LAYERS[name]
    apply, variables = of_linen(Between(layer()), sequences(2, 8))
    check(apply, variables, sequences(2, 8), expected=expected, gradients=gradients)


def test_weight_norm_of_linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.WeightNorm(nn.Dense(8))(x)
            return nn.Dense(2)(jax.nn.relu(x))

    # The norm of a channel is over its own weights, with a small number inside the root.
    check(*of_linen(Net(), sequences()), sequences(), expected=[8])


def test_spectral_norm_of_linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.SpectralNorm(nn.Dense(8))(x, update_stats=train)
            return nn.Dense(2)(jax.nn.relu(x))

    apply, variables = of_linen(Net(), sequences(), train=True)
    groups = jp.structured.channel_groups(apply, variables, sequences())
    for group in groups:
        assert group.size == 8
    check_shrunk(apply, random_params(variables), (sequences(),), 0.5, groups=groups)


def test_scanned_and_rematerialised_layers_of_linen():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(6)(jax.nn.relu(nn.Dense(10)(x))), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            x, _ = layers()(nn.Dense(6)(x), None)
            return nn.Dense(2)(x)

    check(*of_linen(Net(), sequences()), sequences(), expected=[6, 10], other=(sequences(3),))


# No framework at all.


def test_lists_of_dictionaries():
    widths = [3, 6, 5, 2]
    struct = jax.ShapeDtypeStruct
    params = [
        {"w": struct((a, b), jnp.float32), "b": struct((b,), jnp.float32)}
        for a, b in itertools.pairwise(widths)
    ]

    def apply(params, x):
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"][None])
        return x @ params[-1]["w"] + params[-1]["b"][None]

    groups, _ = check(apply, params, sequences()[0], expected=[6, 5], export=True)
    assert [group.name for group in groups] == ["0/w", "1/w"]


def test_a_mixture_of_experts():
    def apply(p, x):
        gate = jax.nn.softmax(x @ p["gate"], axis=-1)
        hidden = jax.nn.relu(jnp.einsum("btc,ech->bteh", x, p["up"]))
        return jnp.einsum("bteh,ehc,bte->btc", hidden, p["down"], gate)

    shapes = {"gate": (3, 4), "up": (4, 3, 6), "down": (4, 6, 3)}
    params = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    groups, _ = check(apply, params, sequences(), expected=[4, 6])
    # The router still counts a masked expert, with a score of zero.
    assert {m.path for m in groups["gate"].members} == {"gate", "up", "down"}


def test_a_state_space_model():
    def apply(p, x):
        def step(h, u):
            h = h * jax.nn.sigmoid(p["decay"])[None] + u @ p["in"]
            return h, h @ p["out"]

        start = jnp.zeros((x.shape[0], 6))
        return jax.lax.scan(step, start, x.transpose(1, 0, 2))[1]

    shapes = {"decay": (6,), "in": (3, 6), "out": (6, 2)}
    params = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    check(apply, params, sequences(), expected=[6], other=(sequences(3),))


def test_a_u_net():
    def conv(x, kernel, stride=1, grow=1):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,), "SAME" if grow == 1 else [(2, 1)], lhs_dilation=(grow,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )  # fmt: skip

    def apply(p, x):
        a = jax.nn.relu(conv(x, p["a"]))
        b = jax.nn.relu(conv(a, p["b"], stride=2))
        c = conv(b, p["c"], grow=2)
        return conv(jnp.concatenate([a, c], axis=-1), p["d"])

    shapes = {"a": (3, 3, 4), "b": (3, 4, 6), "c": (3, 6, 5), "d": (3, 9, 2)}
    params = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    x = sequences(2, 8)
    groups, _ = check(apply, params, x, expected=[9, 6])
    assert np.array_equal(groups["a"].role("in")[-1].owners, np.arange(9))
