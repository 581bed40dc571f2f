"""What an installation must do: prune, retrain, save, load. Run by itself, outside the checkout."""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp

CHECKOUT = pathlib.Path(sys.argv[1]).resolve()
FOUND = pathlib.Path(jp.__file__).resolve()
assert CHECKOUT not in FOUND.parents, (
    f"the checkout is imported, and not what was installed: {FOUND}"
)

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(256, 8)), jnp.float32)
Y = jnp.asarray(np.argmax(np.asarray(X)[:, :3], -1))


def logits(params, x):
    hidden = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"]


def loss_fn(params, model_state, batch, key):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, batch["x"]), batch["y"])
    return losses.mean(), (model_state, {})


def eval_fn(params, model_state, batch):
    right = (jnp.argmax(logits(params, batch["x"]), -1) == batch["y"]).astype(jnp.float32)
    return {"accuracy": (jnp.sum(right * batch["weight"]), jnp.sum(batch["weight"]))}


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def main() -> None:
    first, last = (jnp.asarray(RNG.normal(size=n), jnp.float32) for n in ((8, 32), (32, 3)))
    params = {
        "first": {"kernel": first, "bias": jnp.zeros(32)},
        "last": {"kernel": last, "bias": jnp.zeros(3)},
    }
    data = {"x": X, "y": Y}
    batch_at = jax.tree_util.Partial(
        lambda data, t: jax.tree.map(
            lambda v: jax.lax.dynamic_slice_in_dim(v, t % 4 * 64, 64), data
        ),
        data,
    )
    step = jp.training.make_train_step(loss_fn, sgd)
    result = jp.training.imp(
        jp.training.TrainState.create(params, sgd, key=jax.random.key(0)),
        jp.training.make_loop(step, batch_at),
        evaluate=jp.training.make_evaluate(
            eval_fn, {k: np.asarray(v) for k, v in data.items()}, batch_size=64
        ),
        pretraining=optax.linear_schedule(0.1, 0.0, 200),
        pretraining_steps=200,
        sparsity=0.8,
        cycles=2,
        retraining_steps=50,
        progress=True,
    )
    dense, *_, last = result.records
    assert dense.evaluation["accuracy"] > 0.9, result
    assert last.evaluation["accuracy"] > 0.85, result
    assert last.nonzero == 352 - round(0.8 * 352), result
    jp.assert_sparse(result.state.params, result.state.opt_state)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.safetensors"
        jp.save(path, result.state.params, result.state.mask)
        loaded, mask = jp.load(path)
    np.testing.assert_array_equal(loaded["first"]["kernel"], result.state.params["first"]["kernel"])
    assert jp.sparsity(mask) == last.sparsity
    print(f"jax {jax.__version__}, python {sys.version.split()[0]}: {last}")


if __name__ == "__main__":
    main()
