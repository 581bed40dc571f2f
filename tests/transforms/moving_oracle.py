"""A slow NumPy training loop for masks that move, and the same network in JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from transform_cases import EXACT, stacked

from jaxprune.transforms import get_mask

STEPS = 40
LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01
SHAPES = {"a": (6, 8), "b": (8, 4)}

FAST = EXACT


def inner():
    """What the oracle writes out: nesterov momentum on gradients with weight decay."""
    return optax.chain(
        optax.add_decayed_weights(DECAY), optax.sgd(LR, momentum=MOMENTUM, nesterov=True)
    )


def start(seed=0):
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape) * 0.5 for name, shape in SHAPES.items()}
    params = {name: {"kernel": jnp.asarray(w, jnp.float32)} for name, w in weights.items()}
    params["b"]["bias"] = jnp.zeros((4,), jnp.float32)
    return params


def data(steps=STEPS, seed=1):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(steps, 16, 6)), rng.normal(size=(steps, 16, 4))
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def gradients(params, x, y):
    """By hand, of the mean over the batch of half the squared error of ``x a b + bias - y``."""
    a, b = params["a"]["kernel"], params["b"]["kernel"]
    hidden = x @ a
    error = (hidden @ b + params["b"]["bias"][None] - y) / x.shape[0]
    return {
        "a": {"kernel": x.T @ (error @ b.T)},
        "b": {"kernel": hidden.T @ error, "bias": error.sum(0)},
    }


def with_none(mask):
    return {"a": {"kernel": mask["a"]}, "b": {"kernel": mask["b"], "bias": None}}


def kernels(tree):
    return {name: np.asarray(tree[name]["kernel"]) for name in SHAPES}


def train(tx, params, state, batches):
    """The user's loop; also returns parameters and mask of every step."""
    path, masks = [], []
    for batch in zip(*batches, strict=True):
        params, state = _trainer(tx)(params, state, *batch)
        path.append(params)
        masks.append(get_mask(state))
    return (params, state), (stacked(path), stacked(masks))


@functools.cache
def _trainer(tx):
    def step(params, state, x, y):
        updates, state = tx.update(gradients(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, compiler_options=FAST)


@functools.cache
def stepper(tx):
    """The compiled step of a user's loop: ``(grads, state, params) -> (params, state)``."""

    def step(grads, state, params, **extra_args):
        updates, state = tx.update(grads, state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, compiler_options=FAST)


def oracle(params, mask, move, *, instead_of_step=False, forget=(), steps=STEPS):
    """Yields weights and mask of every step.

    ``move(t, weights, grads, mask)`` gives the mask after step t, or None where none is due. After
    the steps in ``forget`` all momentum begins anew.
    """
    w = {f"{k}/{n}": np.asarray(x, np.float64) for k, v in params.items() for n, x in v.items()}
    m = {"a/kernel": mask["a"].copy(), "b/kernel": mask["b"].copy()}
    m["b/bias"] = np.ones(4, bool)
    buffer = {name: np.zeros_like(x) for name, x in w.items()}
    for t, (x, y) in enumerate(zip(*data(steps), strict=True), start=1):
        nested = {"a": {"kernel": w["a/kernel"]}}
        nested["b"] = {"kernel": w["b/kernel"], "bias": w["b/bias"]}
        g = gradients(nested, x.astype(np.float64), y.astype(np.float64))
        g = {f"{k}/{n}": v for k, leaves in g.items() for n, v in leaves.items()}

        def after_step(w=w, g=g, buffer=buffer):
            new_w, new_buffer = {}, {}
            for name in w:
                masked = np.where(m[name], g[name], 0.0) + DECAY * np.where(m[name], w[name], 0.0)
                new_buffer[name] = np.where(m[name], masked + MOMENTUM * buffer[name], 0.0)
                moved = w[name] - LR * (masked + MOMENTUM * new_buffer[name])
                new_w[name] = np.where(m[name], moved, 0.0)
            return new_w, new_buffer

        masked_w = {name: np.where(m[name], w[name], 0.0) for name in w}
        stepped_w, stepped_buffer = after_step()
        seen = masked_w if instead_of_step else stepped_w
        new = move(t, *({k: d[f"{k}/kernel"] for k in SHAPES} for d in (seen, g, m)))
        if new is not None and instead_of_step:
            w = masked_w
        else:
            w, buffer = stepped_w, stepped_buffer
        if new is not None:
            for k in SHAPES:
                stayed = m[f"{k}/kernel"] & new[k]
                w[f"{k}/kernel"] = np.where(stayed, w[f"{k}/kernel"], 0.0)
                buffer[f"{k}/kernel"] = np.where(stayed, buffer[f"{k}/kernel"], 0.0)
                m[f"{k}/kernel"] = new[k].copy()
        if t in forget:
            buffer = {name: np.zeros_like(x) for name, x in w.items()}
        yield w, {k: m[f"{k}/kernel"] for k in SHAPES}


def assert_follows(tx, params, move, *, instead_of_step=False, forget=()):
    """Compares masks exactly and weights to 1e-5 after each step; returns the masks seen."""
    state = tx.init(params)
    first = kernels(get_mask(state))
    _, (path, masks) = train(tx, params, state, data())
    seen = [first]
    slow = oracle(params, first, move, instead_of_step=instead_of_step, forget=forget)
    for t, (weights, mask) in enumerate(slow):
        for k in SHAPES:
            now = np.asarray(masks[k]["kernel"])[t]
            np.testing.assert_array_equal(now, mask[k], err_msg=f"step {t + 1}")
            got = np.asarray(path[k]["kernel"])[t]
            np.testing.assert_allclose(got, weights[f"{k}/kernel"], rtol=0, atol=1e-5)
            assert not got[~now].any()
        np.testing.assert_allclose(np.asarray(path["b"]["bias"])[t], weights["b/bias"], atol=1e-5)
        seen.append({k: np.asarray(masks[k]["kernel"])[t] for k in SHAPES})
    return seen


def drop_lowest(mask, scores, k):
    """Without its k kept entries of lowest score; ties: lowest index first."""
    flat = [
        (s, i)
        for i, (s, there) in enumerate(zip(scores.ravel(), mask.ravel(), strict=True))
        if there
    ]
    out = mask.copy().ravel()
    for _, i in sorted(flat)[:k]:
        out[i] = False
    return out.reshape(mask.shape)


def grow_highest(mask, scores, k):
    """With the k entries of highest score that it lacks; ties: highest index first."""
    flat = [
        (s, i)
        for i, (s, there) in enumerate(zip(scores.ravel(), mask.ravel(), strict=True))
        if not there
    ]
    out = mask.copy().ravel()
    for _, i in sorted(flat)[len(flat) - k :]:
        out[i] = True
    return out.reshape(mask.shape)
