"""A convolutional network with batch normalisation, small enough for eight simulated devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import jaxprune as jp

BATCH = 32
_rng = np.random.default_rng(0)
LABELS = jnp.asarray(_rng.integers(0, 4, 96).astype(np.int32))
_MEANS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])[np.asarray(LABELS)][:, None, None]
IMAGES = jnp.asarray((_rng.normal(size=(96, 8, 8, 2)) + _MEANS).astype(np.float32))
LAYERS = np.arange(48).reshape(8, 6) % 5 > 0  # kept weights of eight layers in one leaf


class Net(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        x = nn.BatchNorm(not train, axis_name=self.axis_name)(x)
        x = nn.relu(x).mean((1, 2))
        return nn.Dense(4)(nn.relu(nn.Dense(64)(x)))


def make_loss_fn(axis_name=None):
    net = Net(axis_name)

    def loss_fn(params, model_state, batch, key):
        del key
        logits, after = net.apply(
            {"params": params, **model_state}, batch["x"], True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        accuracy = jnp.mean((jnp.argmax(logits, -1) == batch["y"]).astype(jnp.float32))
        return losses.mean(), (dict(after), {"accuracy": accuracy})

    return loss_fn


def eval_fn(params, model_state, batch):
    logits = Net().apply({"params": params, **model_state}, batch["x"], False)
    right = (jnp.argmax(logits, -1) == batch["y"]).astype(jnp.float32)
    return {"accuracy": (jnp.sum(right * batch["weight"]), jnp.sum(batch["weight"]))}


def _batch(images, labels, step):
    chosen = jax.random.randint(jax.random.fold_in(jax.random.key(5), step), (BATCH,), 0, 96)
    return {"x": images[chosen], "y": labels[chosen]}


batch_at = jax.tree_util.Partial(_batch, IMAGES, LABELS)


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


@jax.jit
def _variables():
    return Net().init(jax.random.key(0), IMAGES[:1], False)


def state(mask=None, make_optimizer=sgd):
    """A fresh state: it may be donated."""
    variables = _variables()
    return jp.training.TrainState.create(
        variables["params"],
        make_optimizer,
        model_state={"batch_stats": variables["batch_stats"]},
        mask=mask,
        key=jax.random.key(1),
    )


def mesh(*shape):
    names = ("data", "model")[: len(shape)]
    count = int(np.prod(shape))
    return Mesh(np.array(jax.devices()[:count]).reshape(shape), names)


# On which devices, by name; the first is the reference.
DEVICES = ("1", "8", "2x2", "8 sharded", "2x2 sharded", "8 by pmap")


@functools.cache
def step(name):
    """The same step on other devices. Made once, so it compiles once a process."""
    if name == "1":
        return jp.training.make_train_step(make_loss_fn(), sgd)
    if name == "8 by pmap":
        return jp.training.make_pmap_train_step(make_loss_fn("batch"), sgd)
    over = mesh(2, 2) if name.startswith("2x2") else mesh(8)
    rule = jp.training.fully_sharded(over, min_size=64) if name.endswith("sharded") else None
    return jp.training.make_train_step(make_loss_fn(), sgd, mesh=over, sharding=rule)


@functools.cache
def loop(name):
    """The loop over that step, made once, too."""
    return jp.training.make_loop(step(name), batch_at, chunk_steps=4)


@functools.cache
def evaluate():
    data = {"x": np.asarray(IMAGES), "y": np.asarray(LABELS)}
    return jp.training.make_evaluate(eval_fn, data, batch_size=50)
