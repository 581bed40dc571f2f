"""Flax NNX modules trained, pruned and written back by way of `from_nnx`."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import jaxprune as jp
from tests.training.problem import CLASSES, DATA, FEATURES, batch_at, sgd

WIDTH, DEPTH = 8, 3


class Net(nnx.Module):
    """Batch norm, dropout, a list, and one kernel in two layers."""

    def __init__(self, rngs, rate=0.25):
        self.first = nnx.Linear(FEATURES, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])
        self.hidden[1].kernel = self.hidden[0].kernel
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.first(x))))
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.last(x)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(nnx.relu(self.norm(self.linear(x))))


class Scanned(nnx.Module):
    """Layers made by `nnx.vmap`, their weights stacked, and run by `nnx.scan`."""

    def __init__(self, rngs):
        self.first = nnx.Linear(FEATURES, WIDTH, rngs=rngs)
        make = nnx.split_rngs(splits=DEPTH)(nnx.vmap(Block, in_axes=0, out_axes=0))
        self.blocks = make(rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        run = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.last(run(self.blocks, self.first(x)))


def loss(model, batch):
    out = model(batch["x"])
    losses = optax.softmax_cross_entropy_with_integer_labels(out, batch["y"])
    return jnp.mean(losses), {"logit": jnp.mean(out)}


def evaluate(model, batch):
    right = (jnp.argmax(model(batch["x"]), -1) == batch["y"]).astype(jnp.float32)
    return {"accuracy": (jnp.sum(right * batch["weight"]), jnp.sum(batch["weight"]))}


@functools.cache
def taken(kind=Net, seed=0):
    return jp.training.from_nnx(kind(nnx.Rngs(seed)), loss, evaluate)


@functools.cache
def loop(kind=Net):
    return jp.training.make_loop(jp.training.make_train_step(taken(kind).loss_fn, sgd), batch_at)


def state_of(net, key=1):
    return jp.training.TrainState.create(
        net.params, sgd, model_state=net.model_state, key=jax.random.key(key)
    )


def imp(kind, **options):
    return jp.training.imp(
        state_of(taken(kind)),
        loop(kind),
        evaluate=jp.training.make_evaluate(taken(kind).eval_fn, DATA, batch_size=64),
        pretraining=optax.constant_schedule(0.1),
        pretraining_steps=20,
        sparsity=0.5,
        cycles=2,
        retraining_steps=5,
        schedule="llr",
        **options,
    )


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_parameters_have_the_names_of_the_module_and_random_streams_are_no_state():
    net = taken()
    paths = jax.tree_util.tree_leaves_with_path(net.params)
    assert [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths] == [
        "first/bias", "first/kernel", "hidden/0/bias", "hidden/0/kernel", "hidden/1/bias",
        "last/bias", "last/kernel", "norm/bias", "norm/scale",
    ]  # fmt: skip
    assert set(net.model_state) == {"norm"}
    assert set(net.model_state["norm"]) == {"mean", "var"}


def test_imp_prunes_and_the_module_gets_weights_and_statistics():
    model = Net(nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    net, result = taken(), imp(Net)
    assert jp.sparsity(result.state.mask) == 0.5
    assert result.records[-1].evaluation["accuracy"] > 0.5
    same(before, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    net.update(model, result.state)
    same(nnx.to_pure_dict(nnx.state(model, nnx.Param)), result.state.params)
    same(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), result.state.model_state)
    assert not np.array_equal(result.state.model_state["norm"]["mean"], np.zeros(WIDTH))
    assert model.hidden[1].kernel is model.hidden[0].kernel
    # The module itself, evaluated as its author would.
    model.eval()
    right = np.argmax(model(DATA["x"]), -1) == DATA["y"]
    assert np.isclose(np.mean(right), result.records[-1].evaluation["accuracy"], atol=1e-6)
    again = net.merged(result.state)
    assert again.hidden[1].kernel is again.hidden[0].kernel
    assert not again.dropout.deterministic


def test_steps_are_those_of_a_loop_written_in_nnx():
    net = jp.training.from_nnx(Net(nnx.Rngs(0), rate=0.0), loss)
    train = jp.training.make_loop(jp.training.make_train_step(net.loss_fn, sgd), batch_at)
    state, metrics = train(state_of(net), [0.1] * 5)
    model = Net(nnx.Rngs(0), rate=0.0)
    optimizer = nnx.Optimizer(model, sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        (value, _), grads = nnx.value_and_grad(loss, has_aux=True)(model, batch)
        optimizer.update(model, grads)
        return value

    losses = [step(model, optimizer, batch_at(t)) for t in range(5)]
    np.testing.assert_allclose(metrics["loss"], np.stack(losses), rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, state.params, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    jax.tree.map(close, state.model_state, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))


@pytest.mark.parametrize("kind", [Net, Scanned])
def test_dropout_follows_the_key_of_the_step_alone(kind):
    net, other = taken(kind), taken(kind, seed=7)  # other seeds in the module, the same weights
    batch = batch_at(0)
    lossy = jax.jit(net.loss_fn)
    first = lossy(net.params, net.model_state, batch, jax.random.key(0))
    same(first, lossy(net.params, net.model_state, batch, jax.random.key(0)))
    second = lossy(net.params, net.model_state, batch, jax.random.key(1))
    assert first[0] != second[0]
    same(first, jax.jit(other.loss_fn)(net.params, net.model_state, batch, jax.random.key(0)))
    assert jax.tree.structure(first[1][0]) == jax.tree.structure(net.model_state)


def test_layers_of_a_scan_drop_differently_unless_they_were_seeded_alike():
    class Drops(nnx.Module):
        def __init__(self, rngs, alike):
            self.w = nnx.Param(jnp.ones(1))
            keys = rngs.fork() if alike else rngs
            make = nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs), in_axes=0, out_axes=0)
            if alike:
                self.drop = make(jax.tree.map(lambda k: jnp.stack([k] * 4), keys))
            else:
                self.drop = nnx.split_rngs(splits=4)(make)(rngs)

        def __call__(self):
            return nnx.vmap(lambda drop: drop(jnp.ones(64)), in_axes=0)(self.drop)

    def patterns(alike):
        rows = []

        def note(model, batch):
            out = model()
            return jnp.sum(model.w[...]), {f"row{i}": jnp.dot(o, batch) for i, o in enumerate(out)}

        net = jp.training.from_nnx(Drops(nnx.Rngs(0), alike), note)
        _, (_, rows) = net.loss_fn(net.params, {}, jnp.arange(64.0), jax.random.key(0))
        return {float(row) for row in rows.values()}

    assert len(patterns(False)) == 4
    assert len(patterns(True)) == 1


def test_stacked_layers_are_pruned_layer_by_layer():
    result = imp(Scanned, allocation=jp.masks.uniform(), stacked={"blocks/.*": 0})
    kept = np.asarray(result.state.mask["blocks"]["linear"]["kernel"])
    assert kept.shape == (DEPTH, WIDTH, WIDTH)
    assert [int(layer.sum()) for layer in kept] == [WIDTH * WIDTH // 2] * DEPTH
    model = taken(Scanned).merged(result.state)
    same(model.blocks.linear.kernel[...], result.state.params["blocks"]["linear"]["kernel"])
    assert result.state.model_state["blocks"]["norm"]["mean"].shape == (DEPTH, WIDTH)


def test_runs_resume_to_the_same_bits(tmp_path):
    whole = imp(Net)
    checkpoints = jp.training.Checkpoints(tmp_path, every=10)
    with pytest.raises(KeyboardInterrupt):
        imp(Net, checkpoints=checkpoints, on_phase=_interrupt)
    resumed = imp(Net, checkpoints=jp.training.Checkpoints(tmp_path, every=10, resume=True))
    same(whole.state.params, resumed.state.params)
    same(whole.state.model_state, resumed.state.model_state)


def _interrupt(*args):
    raise KeyboardInterrupt


def test_partitioned_parameters_keep_their_names_of_axes_and_say_where_they_lie():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))

    class Partitioned(nnx.Module):
        def __init__(self, rngs):
            init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "data"))
            self.first = nnx.Linear(FEATURES, WIDTH, kernel_init=init, rngs=rngs)
            self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x)))

    with jax.set_mesh(mesh):
        model = Partitioned(nnx.Rngs(0))
    net = jp.training.from_nnx(model, loss)
    assert net.sharding("first/kernel", None) == PartitionSpec(None, "data")
    assert net.sharding("first/bias", None) == PartitionSpec()
    step = jp.training.make_train_step(net.loss_fn, sgd, mesh=mesh, sharding=net.sharding)
    state, _ = jp.training.make_loop(step, batch_at)(state_of(net), [0.1, 0.1])
    assert state.params["first"]["kernel"].sharding.spec == PartitionSpec(None, "data")
    net.update(model, state)
    assert model.first.kernel.get_metadata()["out_sharding"] == (None, "data")
    assert net.merged(state).first.kernel.get_metadata()["out_sharding"] == (None, "data")
    same(model.first.kernel[...], state.params["first"]["kernel"])


def test_what_a_forward_pass_sows_is_dropped_and_new_variables_are_refused():
    class Adds(nnx.Module):
        def __init__(self, kind):
            self.w = nnx.Param(jnp.ones(2))
            self.kind = kind

        def __call__(self):
            self.extra = self.kind(self.w[...] * 2)
            return jnp.sum(self.w[...])

    def once(kind):
        net = jp.training.from_nnx(Adds(kind), lambda model, batch: model())
        return net.loss_fn(net.params, net.model_state, None, jax.random.key(0))

    assert once(nnx.Intermediate)[1] == ({}, {})
    with pytest.raises(ValueError, match="changes the variables of the model: 'extra' is missing"):
        once(nnx.BatchStat)


def test_errors_name_what_is_wrong():
    with pytest.raises(TypeError, match="model is a module of Flax NNX"):
        jp.training.from_nnx({"w": jnp.ones((2, 2))}, loss)
    with pytest.raises(TypeError, match=r"loss is called as loss\(model, batch\)"):
        jp.training.from_nnx(Net(nnx.Rngs(0)), lambda model: 0.0)
    with pytest.raises(TypeError, match=r"evaluate is called as evaluate\(model, batch\)"):
        jp.training.from_nnx(Net(nnx.Rngs(0)), loss, lambda model: {})
    with pytest.raises(ValueError, match="the module is abstract"):
        jp.training.from_nnx(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), loss)
    with pytest.raises(ValueError, match="nothing of the module is trained"):
        jp.training.from_nnx(Net(nnx.Rngs(0)), loss, wrt=nnx.LoRAParam)
    net = jp.training.from_nnx(Net(nnx.Rngs(0)), lambda model, batch: (1.0, {}, {}))
    with pytest.raises(TypeError, match="returns the loss, or"):
        net.loss_fn(net.params, net.model_state, batch_at(0), jax.random.key(0))
    with pytest.raises(TypeError, match="given no evaluation"):
        net.eval_fn(net.params, net.model_state, batch_at(0))
    with pytest.raises(ValueError, match="update is given another module: 'blocks/linear/bias'"):
        net.update(Scanned(nnx.Rngs(0)), state_of(net))


def test_importing_the_library_does_not_import_flax():
    code = "import sys, jaxprune; sys.exit(any(m.split('.')[0] == 'flax' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_module_trains_and_is_evaluated_in_its_mode_whatever_the_one_it_came_in():
    modes = []

    def note(model, batch):
        modes.append((model.dropout.deterministic, model.norm.use_running_average))
        return jnp.mean(model(batch["x"]))

    def frozen(model, batch):
        model.norm.eval()
        return note(model, batch)

    def evaluated(model, batch):
        return {"mean": (note(model, batch), 1.0)}

    model = Net(nnx.Rngs(0))
    model.eval()
    for loss_of in (note, frozen):
        net = jp.training.from_nnx(model, loss_of, evaluated)
        batch = jax.eval_shape(batch_at, 0)
        jax.eval_shape(net.loss_fn, net.params, net.model_state, batch, jax.random.key(0))
        jax.eval_shape(net.eval_fn, net.params, net.model_state, batch)
    assert modes == [(False, False), (True, True), (False, True), (True, True)]


@pytest.mark.slow
def test_several_devices_drop_alike():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    step = jp.training.make_train_step(taken().loss_fn, sgd, mesh=mesh)
    _, metrics = jp.training.make_loop(step, batch_at)(state_of(taken()), [0.1] * 5)
    _, alone = loop(Net)(state_of(taken()), [0.1] * 5)
    np.testing.assert_allclose(metrics["loss"], alone["loss"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        jp.methods.dpf(0.5, total_steps=10, interval=2),
        jp.methods.rigl(0.5, key=jax.random.key(0), total_steps=10, interval=2),
    ],
    ids=lambda method: method.name,
)
def test_methods_end_in_a_sparse_module(method):
    net = taken()
    prepared = jp.training.prepare(
        method, net.params, net.loss_fn, sgd, model_state=net.model_state, key=jax.random.key(0)
    )
    step = jp.training.make_train_step(prepared.loss_fn, prepared.make_optimizer)
    result = jp.training.fit(
        prepared,
        jp.training.make_loop(step, batch_at),
        evaluate=jp.training.make_evaluate(net.eval_fn, DATA, batch_size=64),
        learning_rates=[0.1] * 10,
    )
    model = net.merged(result.state)
    kernels = [model.first.kernel, model.hidden[0].kernel, model.last.kernel]
    kept = sum(int(np.count_nonzero(kernel[...])) for kernel in kernels)
    assert kept == sum(kernel.size for kernel in kernels) // 2
