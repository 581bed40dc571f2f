# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Prune a network, and retrain it well
#
# Train a small convolutional network on scikit-learn's handwritten digits, remove 90 % of its
# weights at once, and retrain it twice for the same few steps: with **fine-tuning** (FT: the last,
# smallest learning rate of dense training, Han et al. 2015) and with **ALLR** (a linear schedule
# whose first rate follows from what the pruning destroyed, Zimmer et al. 2023).
#
# Runs on CPU, GPU and TPU in about a minute.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxprune as jp

print(f"jaxprune {jp.__version__}, jax {jax.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Data and network
#
# 1,797 images of 8 x 8 pixels; a fixed random 500 of them are the test set. A batch is a pure
# function of the step number: an interrupted run needs no iterator state to go on.

# %%
images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16 - 0.3).astype(np.float32)
labels = labels.astype(np.int32)
order = np.random.default_rng(0).permutation(len(labels))
test, training = order[:500], order[500:]

BATCH = 64


def draw(images, labels, step):
    chosen = jax.random.randint(
        jax.random.fold_in(jax.random.key(1), step), (BATCH,), 0, len(labels)
    )
    return {"image": images[chosen], "label": labels[chosen]}


# A Partial is a pytree: the arrays enter compiled code as arguments and stay on the device.
batch_at = jax.tree_util.Partial(draw, jnp.asarray(images[training]), jnp.asarray(labels[training]))


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        for channels in (16, 32):
            x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


network = Network()
params = network.init(jax.random.key(0), images[:1])["params"]
print(jp.masks.report(params))

# %% [markdown]
# ## Three functions of yours
#
# A loss, an evaluation that returns sums and counts (the last partial batch is padded with weight
# 0), and a function from a learning rate to an optimizer. The learning rate is an argument of the
# compiled step, so dense training and every retraining share one compilation.


# %%
def loss_fn(params, model_state, batch, key):
    logits = network.apply({"params": params}, batch["image"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    return loss, (model_state, {"accuracy": (logits.argmax(-1) == batch["label"]).mean()})


def eval_fn(params, model_state, batch):
    correct = network.apply({"params": params}, batch["image"]).argmax(-1) == batch["label"]
    return {"accuracy": ((correct * batch["weight"]).sum(), batch["weight"].sum())}


def make_optimizer(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


step = jp.training.make_train_step(loss_fn, make_optimizer)
train = jp.training.make_loop(step, batch_at)
evaluate = jp.training.make_evaluate(
    eval_fn, {"image": images[test], "label": labels[test]}, batch_size=250
)

# %% [markdown]
# ## Train dense
#
# 600 steps; the learning rate drops to a tenth after 300 and after 450 of them.

# %%
DENSE_STEPS, RETRAINING_STEPS = 600, 60
schedule = optax.piecewise_constant_schedule(0.1, {300: 0.1, 450: 0.1})

dense = jp.training.TrainState.create(params, make_optimizer, key=jax.random.key(2))
dense, history = train(dense, jax.vmap(schedule)(jnp.arange(DENSE_STEPS)))
print(f"dense: {100 * evaluate(dense)['accuracy']:.1f} % of the test images are right")

# %% [markdown]
# ## Prune to 90 %, retrain with FT and with ALLR
#
# `imp` with one cycle is one-shot pruning. It starts from the trained state (`pretrain=False`) and
# leaves that state untouched, so both runs start from the same weights and remove the same ones.

# %%
results = {
    name: jp.training.imp(
        dense,
        train,
        evaluate=evaluate,
        pretraining=schedule,
        pretraining_steps=DENSE_STEPS,
        pretrain=False,
        sparsity=0.9,
        cycles=1,
        retraining_steps=RETRAINING_STEPS,
        schedule=name,
    )
    for name in ("ft", "allr")
}

for name, result in results.items():
    cycle = result.records[1]
    pruned, retrained = cycle.evaluation_pruned["accuracy"], cycle.evaluation["accuracy"]
    print(
        f"{name:5} {cycle.nonzero} of {cycle.prunable} weights left, "
        f"{100 * pruned:.1f} % right after pruning, {100 * retrained:.1f} % after retraining"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for name, color in (("ft", "#D55E00"), ("allr", "#0072B2")):
    cycle = results[name].records[1]
    left.plot(cycle.learning_rates, color=color, label=name.upper())
    # Mean over ten steps: single batches of 64 are noisy.
    smooth = np.convolve(cycle.metrics["accuracy"], np.ones(10) / 10, mode="valid")
    right.plot(np.arange(9, RETRAINING_STEPS), 100 * smooth, color=color, label=name.upper())
left.set(xlabel="retraining step", ylabel="learning rate", title="What was used")
right.set(xlabel="retraining step", ylabel="training accuracy (%)", title="What it did")
left.legend()
right.legend()
plt.show()

# %% [markdown]
# ## Any training loop
#
# Nothing above is needed to use a mask in a loop of your own: wrap your optimizer, and pruned
# weights are exactly zero after every `optax.apply_updates`.

# %%
pruned, mask = jp.prune(dense.params, 0.9)
optimizer = jp.transforms.fixed_mask(optax.adam(1e-3), mask)
opt_state = optimizer.init(pruned)
grads = jax.grad(lambda p: loss_fn(p, None, batch_at(0), None)[0])(pruned)
updates, opt_state = optimizer.update(grads, opt_state, pruned)
pruned = optax.apply_updates(pruned, updates)

kept = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(jp.apply_mask(pruned, mask)))
print(f"sparsity {jp.sparsity(mask):.4f}; {kept} nonzero parameters, biases included")
