"""A tiny classification problem that trains in milliseconds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import jaxprune as jp

N, FEATURES, CLASSES = 203, 6, 3  # 203: no batch size divides it

_rng = np.random.default_rng(0)
LABELS = _rng.integers(0, CLASSES, N).astype(np.int32)
INPUTS = (_rng.normal(size=(N, FEATURES)) + 2 * np.eye(CLASSES, FEATURES)[LABELS]).astype(
    np.float32
)
DATA = {"x": INPUTS, "y": LABELS}


def params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "first": {
            "kernel": 0.5 * jax.random.normal(keys[0], (FEATURES, 16)),
            "bias": jnp.zeros(16),
        },
        "last": {"kernel": 0.5 * jax.random.normal(keys[1], (16, CLASSES)), "bias": jnp.zeros(3)},
    }


def logits(params, x):
    hidden = jax.nn.relu(jnp.dot(x, params["first"]["kernel"]) + params["first"]["bias"][None])
    return jnp.dot(hidden, params["last"]["kernel"]) + params["last"]["bias"][None]


def loss_fn(params, model_state, batch, key):
    del key
    out = logits(params, batch["x"])
    losses = optax.softmax_cross_entropy_with_integer_labels(out, batch["y"])
    correct = (jnp.argmax(out, -1) == batch["y"]).astype(jnp.float32)
    return jnp.mean(losses), (model_state, {"accuracy": jnp.mean(correct)})


def eval_fn(params, model_state, batch):
    del model_state
    correct = (jnp.argmax(logits(params, batch["x"]), -1) == batch["y"]).astype(jnp.float32)
    return {"accuracy": (jnp.sum(correct * batch["weight"]), jnp.sum(batch["weight"]))}


def batch_of(data, step):
    index = jax.random.randint(jax.random.fold_in(jax.random.key(7), step), (32,), 0, N)
    return jax.tree.map(lambda x: x[index], data)


batch_at = jax.tree_util.Partial(batch_of, jax.tree.map(jnp.asarray, DATA))
evaluate = jp.training.make_evaluate(eval_fn, DATA, batch_size=64)


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def state(make_optimizer=sgd, **options):
    """A fresh state: it may be donated."""
    return jp.training.TrainState.create(params(), make_optimizer, key=jax.random.key(1), **options)


def mesh():
    return Mesh(np.array(jax.devices()), ("data",))


def step(make_optimizer=sgd, **options):
    """The step with these options, always the same one: so it compiles once a process."""
    return _step(make_optimizer, **options)


@functools.cache
def _step(make_optimizer, **options):
    return jp.training.make_train_step(loss_fn, make_optimizer, **options)


@functools.cache
def pmap_step():
    return jp.training.make_pmap_train_step(loss_fn, sgd)


def loop(make_optimizer=sgd, *, on_chunk=None, **options):
    """The loop over that step with these options, always the same one, too."""
    return _loop(step(make_optimizer), **options)._replace(on_chunk=on_chunk)


def loop_of(step, **options):
    """The loop over another step."""
    return _loop(step, **options)


@functools.cache
def _loop(step, **options):
    return jp.training.make_loop(step, batch_at, **options)
