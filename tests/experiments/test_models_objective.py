"""Loss and evaluation against NumPy, and a small network that learns the digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.data import load, make_batch_at, normalise
from experiments.models import ResNet, create, init, make_eval_fn, make_loss_fn

KEY = jax.random.key(0)


@functools.cache
def make_model():
    model = create("lenet_300_100", 4, widths=(6,))
    return model, *init(model, KEY, (4, 4, 2))


def make_batch(n=8):
    random = np.random.default_rng(0)
    return {
        "image": jnp.asarray(random.normal(size=(n, 4, 4, 2)), jnp.float32),
        "label": jnp.asarray(random.integers(0, 4, n), jnp.int32),
    }


def expected_terms(logits, label):
    logits, label = np.asarray(logits, np.float64), np.asarray(label)
    log_z = np.log(np.exp(logits).sum(-1))
    return log_z - logits[np.arange(len(label)), label], logits.argmax(-1) == label


def test_loss_against_numpy():
    model, params, state = make_model()
    batch = make_batch()
    loss, (new_state, metrics) = jax.jit(make_loss_fn(model))(params, state, batch, KEY)
    logits = model.apply({"params": params}, batch["image"], train=True)
    losses, correct = expected_terms(logits, batch["label"])
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-5)
    assert set(metrics) == {"loss", "accuracy"}
    np.testing.assert_array_equal(metrics["loss"], loss)
    np.testing.assert_allclose(metrics["accuracy"], correct.mean(), rtol=1e-6)
    assert new_state == {}


def test_batch_statistics_move_in_training_and_not_in_evaluation():
    model = ResNet(num_classes=4, blocks=1, widths=(2,))
    params, state = init(model, KEY, (4, 4, 2))
    batch = make_batch()
    _, (new, _) = jax.jit(make_loss_fn(model))(params, state, batch, KEY)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state, new)
    assert all(jax.tree.leaves(moved))
    sums = jax.jit(make_eval_fn(model))(params, new, batch)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(
        {"params": params, **new}, batch["image"]
    )
    losses, _ = expected_terms(logits, batch["label"])
    np.testing.assert_allclose(sums["loss"][0], losses.sum(), rtol=1e-5)


def test_evaluation_counts_weights_and_ignores_padding():
    model, params, state = make_model()
    eval_fn = jax.jit(make_eval_fn(model))
    batch = make_batch()
    whole = eval_fn(params, state, batch)
    assert {name: float(count) for name, (_, count) in whole.items()} == {"loss": 8, "accuracy": 8}
    losses, correct = expected_terms(
        model.apply({"params": params}, batch["image"], train=False), batch["label"]
    )
    np.testing.assert_allclose(whole["loss"][0], losses.sum(), rtol=1e-5)
    assert float(whole["accuracy"][0]) == correct.sum()

    padded = {
        "image": batch["image"].at[5:].set(jnp.inf),
        "label": batch["label"].at[5:].set(0),
        "weight": jnp.asarray([1, 1, 1, 1, 1, 0, 0, 0], jnp.int32),
    }
    part = eval_fn(params, state, padded)
    np.testing.assert_allclose(part["loss"][0], losses[:5].sum(), rtol=1e-5)
    assert float(part["accuracy"][0]) == correct[:5].sum()
    assert float(part["loss"][1]) == 5
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(part))


def test_evaluation_prepares_raw_images():
    model, params, state = make_model()
    mean, std = (0.3, 0.6), (0.2, 0.4)
    raw = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 4, 4, 2)), jnp.uint8)
    label = make_batch()["label"]
    prepare = functools.partial(normalise, mean=mean, std=std)
    got = make_eval_fn(model, prepare)(params, state, {"image": raw, "label": label})
    expected = make_eval_fn(model)(
        params, state, {"image": normalise(raw, mean, std), "label": label}
    )
    np.testing.assert_array_equal(got["loss"][0], expected["loss"][0])


@pytest.mark.slow
def test_small_cnn_learns_the_digits():
    digits = load("digits")
    model = create("small_cnn", 10)
    params, state = init(model, KEY, digits.image_shape)
    loss_fn, optimizer = make_loss_fn(model), optax.sgd(0.1, 0.9)
    batch_at = make_batch_at(
        digits.train, batch_size=64, seed=0, mean=digits.mean, std=digits.std, augment=None
    )

    @jax.jit
    def train_step(params, opt_state, batch_at, step):
        grads, _ = jax.grad(loss_fn, has_aux=True)(params, {}, batch_at(step), KEY)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for step in range(100):
        params, opt_state = train_step(params, opt_state, batch_at, step)
    prepare = functools.partial(normalise, mean=digits.mean, std=digits.std)
    correct, count = make_eval_fn(model, prepare)(params, state, digits.test)["accuracy"]
    assert count == 360
    assert correct / count > 0.93
