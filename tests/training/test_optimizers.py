"""Every optimizer of optax and optax.contrib goes through the training steps and drivers.

Some keep the very parameters in their state. A step donates its state, and XLA refuses to donate
one buffer twice.
"""

import functools
import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax import contrib

import jaxprune as jp
from jaxprune import transforms
from tests.training import problem

# Those that need more than a learning rate.
OPTIONS = {
    "schedule_free": lambda lr: contrib.schedule_free(optax.sgd(lr), lr, b1=0.9),
    "mechanize": lambda lr: contrib.mechanize(optax.sgd(lr)),
    "cocob": lambda lr: optax.chain(contrib.cocob(), optax.scale_by_learning_rate(-lr)),
    "sam": lambda lr: contrib.sam(
        optax.sgd(lr), optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=2
    ),
    "noisy_sgd": lambda lr: optax.noisy_sgd(lr, 0.1, 0.5, key=jax.random.key(0)),
    "sign_sgd": optax.sign_sgd,
    "fromage": lambda lr: optax.fromage(lr, 1e-6),
    "polyak_sgd": lambda lr: optax.polyak_sgd(scaling=lr),
    "reduce_on_plateau": lambda lr: optax.chain(optax.sgd(lr), contrib.reduce_on_plateau()),
    "normalize": lambda lr: optax.chain(contrib.normalize(), optax.sgd(lr)),
    "split_real_and_imaginary": lambda lr: contrib.split_real_and_imaginary(optax.adam(lr)),
}
# Why others are left out.
LEFT_OUT = {
    "lbfgs": "refused: its history mixes weights",
    "optimistic_adam": "older name of optimistic_adam_v2",
    "dpsgd": "wants a gradient an example",
    "differentially_private_aggregate": "wants a gradient an example",
    "sophia": "its Hessian asks for a function of the loss, which a training step has not",
    "hutchinson_estimator_diag_hessian": "asks for a function of the loss",
    "schedule_free_eval_params": "no optimizer",
}


def _makers():
    """The optimizers by name: functions of a learning rate that give a transformation."""
    found = dict(OPTIONS)
    for module in (optax, contrib):
        for name, function in vars(module).items():
            if name in found or name.startswith("_") or not inspect.isfunction(function):
                continue
            parameters = list(inspect.signature(function).parameters.values())
            if not parameters or parameters[0].name != "learning_rate":
                continue
            required = [p for p in parameters[1:] if p.default is p.empty]
            if any(p.kind is not p.VAR_KEYWORD for p in required):
                continue
            if function.__module__.startswith(("optax._src.alias", "optax.contrib")):
                found[name] = function
    return {name: make for name, make in sorted(found.items()) if name not in LEFT_OUT}


MAKERS = _makers()
DEFAULT = ("cocob", "muon", "prodigy", "schedule_free", "sgd")
each = pytest.mark.parametrize(
    "name",
    [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in MAKERS],
)


def test_the_list_has_all_of_them():
    alias = sys.modules[optax.adam.__module__]
    public = {
        name
        for module in (contrib, optax)
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and (module is contrib or function.__module__ == alias.__name__)
        and not name.startswith("scale_by_")  # a part of the optimizer of that name
    }
    assert {"adam", "lamb", "momo", *DEFAULT} <= public
    assert public - set(MAKERS) - set(LEFT_OUT) == set()
    assert set(LEFT_OUT) <= public


@functools.cache
def parts(name):
    with jax.numpy_dtype_promotion("standard"):
        make = MAKERS[name]
        return make, jp.training.make_train_step(problem.loss_fn, make)


@each
def test_a_donated_step_and_exact_zeros(name):
    make, step = parts(name)
    with jax.numpy_dtype_promotion("standard"):
        params = problem.params()
        _, mask = jp.prune(params, 0.5)
        state = jp.training.TrainState.create(params, make, mask=mask, key=jax.random.key(0))
        for i in range(3):
            state, metrics = step(state, problem.batch_at(i), 0.01)
        assert np.isfinite(metrics["loss"])
        jp.assert_sparse(state.params, state.opt_state)
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if is_plain(x)]
    assert len(set(buffers)) == len(buffers), "two leaves share a buffer"


def is_plain(x):
    return isinstance(x, jax.Array) and x.size and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


@each
def test_through_imp_and_fit(name):
    make, step = parts(name)
    with jax.numpy_dtype_promotion("standard"):
        for options in ({}, {"rewind": 1, "schedule": "lrw", "retraining_steps": 1}):
            result = jp.training.imp(
                jp.training.TrainState.create(problem.params(), make, key=jax.random.key(0)),
                jp.training.make_loop(step, problem.batch_at, chunk_steps=2),
                evaluate=lambda state: {"accuracy": 1.0},
                pretraining=optax.constant_schedule(0.01),
                pretraining_steps=2,
                sparsity=0.5,
                cycles=2,
                **({"retraining_steps": 2} | options),
            )
            jp.assert_sparse(result.state.params, result.state.mask, sparsity=0.5)
        method = jp.methods.gmp(0.5, total_steps=4, interval=1)
        prepared = jp.training.prepare(
            method, problem.params(), problem.loss_fn, make, key=jax.random.key(0)
        )
        fit_step = jp.training.make_train_step(prepared.loss_fn, prepared.make_optimizer)
        result = jp.training.fit(
            prepared,
            jp.training.make_loop(fit_step, problem.batch_at, chunk_steps=2),
            evaluate=lambda state: {"accuracy": 1.0},
            learning_rates=[0.01] * 4,
        )
        jp.assert_sparse(result.state.params, result.state.mask, sparsity=0.5)


def test_states_whose_leaves_are_one_array():
    """Parameters, model state and optimizer may be handed over as the same arrays twice."""
    shared = jnp.ones((4, 4))

    def loss_fn(params, model_state, batch, key):
        del key
        out = batch @ params["a"]["kernel"] @ params["b"]["kernel"]
        return jnp.mean(out**2), (jax.tree.map(lambda x: x + 1, model_state), {})

    state = jp.training.TrainState.create(
        {"a": {"kernel": shared}, "b": {"kernel": shared}},
        holding,
        model_state={"x": shared, "y": shared},
        key=jax.random.key(0),
    )
    step = jp.training.make_train_step(loss_fn, holding)
    for _ in range(2):
        state, _ = step(state, jnp.ones((2, 4)), 0.01)
    np.testing.assert_array_equal(state.model_state["x"], 3.0)
    np.testing.assert_array_equal(shared, 1.0)  # what the caller holds is not donated


@pytest.mark.parametrize("where", ["device", "mesh"])
@pytest.mark.parametrize("kind", ["masked", "unmasked", "gmp"])
def test_parameters_that_were_put_on_devices(where, kind):
    """What is tied to a device is not computed by one program, so that buffers could be shared."""
    place = jax.devices()[1]
    if where == "mesh":
        place = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec())
    params = jax.device_put(problem.params(), place)
    make = holding if kind != "gmp" else holding_and_gmp
    state = jp.training.TrainState.create(
        params, make, masked=kind == "masked", key=jax.random.key(0)
    )
    pointers = [buffer(x) for x in jax.tree.leaves((state, params)) if is_plain(x)]
    assert len(set(pointers)) == len(pointers)
    # And in a loop of one's own.
    tx = transforms.fixed_mask(holding(0.1), jp.prune(params, 0.5)[1])
    opt_state = tx.init(params)
    jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))(params, opt_state)


def buffer(x):
    return x.addressable_shards[0].data.unsafe_buffer_pointer()


def holding(learning_rate):
    """Keeps the parameters that it began with, twice."""
    return optax.chain(
        optax.GradientTransformation(
            lambda params: (params, params), lambda updates, state, params=None: (updates, state)
        ),
        optax.sgd(learning_rate),
    )


def holding_and_gmp(learning_rate):
    return transforms.gmp(holding(learning_rate), 0.5, total_steps=4, interval=1)
