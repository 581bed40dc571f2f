"""The loops of other frameworks, each as its users write it, with one line changed.

The line is that of the optimizer: `pruned(...)` around it. A loop returns the parameters of every
step, the optimizer's state and the losses.
"""

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.transforms import freeze, get_mask, set_mask

STEPS, SPARSITY, WIDTH = 8, 0.75, 16
X = np.random.default_rng(0).normal(size=(32, 6)).astype("f4")
Y = np.tanh(X @ np.random.default_rng(1).normal(size=(6, 3))).astype("f4")
KEY = jax.random.key(0)
SIZE = 6 * WIDTH + WIDTH * 3  # the two matrices


def pruned(optimizer):
    """The one line."""
    return jp.transforms.gmp(optimizer, SPARSITY, total_steps=STEPS, interval=2)


def adam():
    return optax.adamw(0.02, weight_decay=0.01)


def loss_of(out):
    return jnp.mean(jnp.square(out - Y))


def linen(tx, kernel_init=nn.linear.default_kernel_init):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(WIDTH, kernel_init=kernel_init)(x))
            return nn.Dense(3, kernel_init=kernel_init)(x)

    model = Model()
    params = model.init(KEY, X)["params"]
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state):
        loss, grads = jax.value_and_grad(lambda p: loss_of(model.apply({"params": p}, X)))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    path, losses = [], []
    for _ in range(STEPS):
        params, opt_state, loss = step(params, opt_state)
        path.append(params)
        losses.append(loss)
    return path, opt_state, losses


def linen_boxed(tx):
    """Flax Linen with the names of mesh axes, which box the parameters."""
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    return linen(tx, init)


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)  # statistics that are no nnx.Param
        self.out = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


def nnx_(tx):
    model = NnxModel(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: loss_of(model(X)))(model)
        optimizer.update(model, grads)
        return loss

    path, losses = [], []
    for _ in range(STEPS):
        losses.append(step(model, optimizer))
        path.append(jax.tree.map(jnp.copy, nnx.state(model, nnx.Param)))
    return path, optimizer.opt_state, losses


def nnx_functional(tx):
    """NNX with `nnx.split`, the loop in pure JAX over its State."""
    graphdef, params, rest = nnx.split(NnxModel(nnx.Rngs(0)), nnx.Param, ...)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, rest, opt_state):
        def loss_fn(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            loss = loss_of(model(X))
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), rest, opt_state, loss

    path, losses = [], []
    for _ in range(STEPS):
        params, rest, opt_state, loss = step(params, rest, opt_state)
        path.append(params)
        losses.append(loss)
    return path, opt_state, losses


def haiku(tx):
    model = hk.without_apply_rng(
        hk.transform(lambda x: hk.Sequential([hk.Linear(WIDTH), jax.nn.relu, hk.Linear(3)])(x))
    )
    params = model.init(KEY, X)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state):
        loss, grads = jax.value_and_grad(lambda p: loss_of(model.apply(p, X)))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    path, losses = [], []
    for _ in range(STEPS):
        params, opt_state, loss = step(params, opt_state)
        path.append(params)
        losses.append(loss)
    return path, opt_state, losses


def equinox(tx):
    model = eqx.nn.MLP(6, 3, WIDTH, depth=1, key=KEY)  # its activation is a leaf, but no array
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, opt_state):
        loss, grads = eqx.filter_value_and_grad(lambda m: loss_of(jax.vmap(m)(X)))(model)
        updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    path, losses = [], []
    for _ in range(STEPS):
        model, opt_state, loss = step(model, opt_state)
        path.append(eqx.filter(model, eqx.is_inexact_array))
        losses.append(loss)
    return path, opt_state, losses


def plain_dict(tx):
    rng = np.random.default_rng(2)
    params = {
        "w1": jnp.asarray(rng.normal(size=(6, WIDTH)) * 0.4, jnp.float32),
        "b1": jnp.zeros(WIDTH),
        "w2": jnp.asarray(rng.normal(size=(WIDTH, 3)) * 0.25, jnp.float32),
        "b2": jnp.zeros(3),
    }
    opt_state = tx.init(params)

    def loss_fn(p):
        return loss_of(jax.nn.relu(X @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])

    @jax.jit
    def step(params, opt_state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    path, losses = [], []
    for _ in range(STEPS):
        params, opt_state, loss = step(params, opt_state)
        path.append(params)
        losses.append(loss)
    return path, opt_state, losses


# One loop of each library in the fast suite; the rest are its variants, and one without any.
LOOPS = [linen, nnx_, haiku, equinox]
VARIANTS = [linen_boxed, nnx_functional, plain_dict]


def each_of(*loops):
    return pytest.mark.parametrize(
        "loop",
        [pytest.param(f, marks=pytest.mark.slow) if f in VARIANTS else f for f in loops],
        ids=lambda loop: loop.__name__,
    )


each = each_of(*LOOPS, *VARIANTS)


@functools.cache
def run(loop):
    # Models of other libraries mix dtypes and ranks as JAX lets them.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return loop(pruned(adam()))


def matrices(params):
    return [np.asarray(x) for x in jax.tree.leaves(params) if np.ndim(x) == 2]


@each
def test_it_ends_at_exactly_the_target(loop):
    path, _, losses = run(loop)
    steps, targets = jp.schedules.gmp_targets(SPARSITY, total_steps=STEPS, interval=2)
    assert steps == (2, 4, 6)
    expected = [0] * STEPS
    for step, target in zip(steps, targets, strict=True):
        expected[step - 1 :] = [round(target * SIZE)] * (STEPS - step + 1)
    gone = [sum(int((m == 0).sum()) for m in matrices(params)) for params in path]
    assert gone == expected
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0]


@each
def test_the_mask_in_the_state_says_where_the_zeros_are(loop):
    path, opt_state, _ = run(loop)
    masks = jax.tree.leaves(get_mask(opt_state))
    weights = matrices(path[-1])
    assert len(masks) == len(weights) == 2
    for mask, weight in zip(masks, weights, strict=True):
        np.testing.assert_array_equal(np.asarray(mask), weight != 0)
    assert jp.sparsity(get_mask(opt_state)) == SPARSITY


@each
def test_the_state_can_be_edited_in_place(loop):
    _, opt_state, _ = run(loop)
    mask = get_mask(opt_state)
    everything = jax.tree.map(jnp.ones_like, mask)
    edited = freeze(set_mask(opt_state, everything))
    assert jax.tree.structure(edited) == jax.tree.structure(opt_state)
    assert jp.sparsity(get_mask(edited)) == 0
    assert jp.sparsity(get_mask(opt_state)) == SPARSITY


@each_of(linen, linen_boxed, nnx_functional, haiku, equinox)
def test_a_mask_made_of_the_parameters_is_that_of_the_state(loop):
    path, opt_state, _ = run(loop)
    mask = get_mask(opt_state)
    nonzero = jax.tree.map(lambda score: score > 0, jp.scores.magnitude(path[-1]))
    assert jax.tree.structure(mask) == jax.tree.structure(nonzero)
    jax.tree.map(np.testing.assert_array_equal, mask, nonzero)


def test_an_nnx_optimizer_takes_a_mask_and_a_freeze_between_its_steps():
    model = nnx.Linear(6, 8, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, pruned(adam()), wrt=nnx.Param)
    compiled = []

    @nnx.jit
    def step(model, optimizer):
        compiled.append(1)
        grads = nnx.grad(lambda model: jnp.sum(jnp.square(model(X) - 1)))(model)
        optimizer.update(model, grads)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step(model, optimizer)
        mask = jp.masks.make(jp.scores.magnitude(nnx.state(model, nnx.Param)), 0.25)
        optimizer.opt_state = freeze(set_mask(optimizer.opt_state, mask))
        for _ in range(3):  # gmp would have pruned after step 2
            step(model, optimizer)
    assert int((model.kernel[...] == 0).sum()) == 12
    assert len(compiled) == 1
