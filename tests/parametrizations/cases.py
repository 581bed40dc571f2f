"""Every method with settings under which 40 steps show all that it does, and the loop around it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from jaxprune import parametrizations
from tests.parametrizations import oracle
from tests.quick import OPTIONS

STEPS = oracle.STEPS
NM = jp.masks.nm(1, 2, layout="flax")


class Case(NamedTuple):
    """``make()`` is the method, ``definition()`` its transcription, ``extra`` the NumPy names."""

    make: Callable[[], parametrizations.Parametrization]
    definition: Callable[[], oracle.Method]
    extra: tuple[str, str] | None = None
    sparsity: float | None = None
    decays_extra: bool = True
    transform: Callable[[Any], Any] = lambda tx: tx


def _gradual(
    function: Any, every: int | None, definition: dict[str, Any] | None = None, **options: Any
) -> Case:
    masked_gradient = function is parametrizations.gmp_recover
    return Case(
        lambda: function(0.75, total_steps=STEPS, interval=10, **options),
        lambda: oracle.Gradual(0.75, STEPS, 10, every, masked_gradient, **(definition or {})),
        sparsity=0.75,
    )


WINDOW = {"begin_step": 4, "end_step": 36, "initial": 0.25}
RECOVERING = jp.methods.gmp_recover(0.75, total_steps=STEPS, interval=10)
assert RECOVERING.transform is not None
RESTARTING = jp.methods.dst(penalty=0.05, weight_decay=0.02, reset_at=0.2)
assert RESTARTING.transform is not None


CASES: dict[str, Case] = {
    "identity": Case(parametrizations.identity, oracle.Method, sparsity=0.0),
    "dnw": Case(lambda: parametrizations.dnw(0.7), lambda: oracle.Dnw(0.7), sparsity=50 / 72),
    "dnw_layerwise": Case(
        lambda: parametrizations.dnw(0.7, allocation=jp.masks.uniform()),
        lambda: oracle.Dnw(0.7, layerwise=True),
        sparsity=(34 + 17) / 72,
    ),
    "dpf": _gradual(parametrizations.dpf, 16),
    "dpf_refreshed_at_the_end": _gradual(parametrizations.dpf, 8, refresh=8),
    "dpf_as_first_published": _gradual(
        parametrizations.dpf, 16, {"at_targets": False}, at_targets=False
    ),
    "dpf_in_a_window": _gradual(parametrizations.dpf, 16, WINDOW, **WINDOW),
    "gmp_recover": _gradual(parametrizations.gmp_recover, None),
    "gmp_recover_in_a_window": _gradual(parametrizations.gmp_recover, None, WINDOW, **WINDOW),
    "gmp_recover_recipe": _gradual(parametrizations.gmp_recover, None, {"forgets": True})._replace(
        transform=RECOVERING.transform
    ),
    "sr_ste": Case(
        lambda: parametrizations.sr_ste(NM, decay=0.05),
        lambda: oracle.SrSte(1, 2, 0.05),
        sparsity=0.5,
    ),
    "str_": Case(
        lambda: parametrizations.str_(initial=-3.0), lambda: oracle.Str(-3.0), ("s1", "s2")
    ),
    "cs": Case(
        lambda: parametrizations.cs(
            total_steps=STEPS, initial=0.05, penalty=1e-3, weight_decay=0.02
        ),
        lambda: oracle.Cs(STEPS, 0.05, 200.0, 1e-3, 0.02),
        ("m1", "m2"),
    ),
    "cs_epochs": Case(
        lambda: parametrizations.cs(
            total_steps=STEPS, initial=0.02, penalty=1e-3, interval=9, final_temperature=50.0
        ),
        lambda: oracle.Cs(STEPS, 0.02, 50.0, 1e-3, 0.0, epoch=9),
        ("m1", "m2"),
    ),
    "dst": Case(
        lambda: parametrizations.dst(0.05, weight_decay=0.02, reset_at=0.2),
        lambda: oracle.Dst(0.05, 0.02, 0.2),
        ("t1", "t2"),
        decays_extra=False,  # an offset cannot follow that
    ),
    "dst_recipe": Case(
        lambda: parametrizations.dst(0.05, weight_decay=0.02, reset_at=0.2),
        lambda: oracle.Dst(0.05, 0.02, 0.2),
        ("t1", "t2"),
        transform=RESTARTING.transform,
    ),
}


def quick(function: Any) -> Any:
    return jax.jit(function, compiler_options=OPTIONS)


@functools.cache
def method(name: str) -> parametrizations.Parametrization:
    return CASES[name].make()


def tree(flat: Any, dtype: Any = jnp.float32) -> Any:
    """The parameters of the library's side, from the flat dict of the transcription."""
    flat = {k: jnp.asarray(v, dtype) for k, v in flat.items() if k in oracle.SHAPES}
    return {
        "first": {"kernel": flat["w1"], "bias": flat["b1"]},
        "last": {"kernel": flat["w2"], "bias": flat["b2"]},
    }


def flat(params: Any) -> dict[str, np.ndarray]:
    """The reverse of `tree`, also for masks."""
    names = {"w1": ("first", "kernel"), "b1": ("first", "bias")}
    names |= {"w2": ("last", "kernel"), "b2": ("last", "bias")}
    found = {k: params[layer][leaf] for k, (layer, leaf) in names.items()}
    return {k: np.asarray(v) for k, v in found.items() if v is not None}


def params(seed: int = 0, dtype: Any = jnp.float32) -> Any:
    return tree(oracle.parameters(seed), dtype)


def data(steps: int) -> Any:
    return oracle.batches(steps)


def dense(trainable: Any) -> Any:
    """The dense weights of a trainable tree."""
    return trainable if isinstance(trainable, dict) else trainable.params


def optimizer(name: str) -> optax.GradientTransformation:
    decays_extra = CASES[name].decays_extra

    def decayed(trainable: Any) -> Any:
        everything = jax.tree.map(lambda _: True, trainable)
        if decays_extra or isinstance(trainable, dict):
            return everything
        first, second = everything
        return type(everything)(first, jax.tree.map(lambda _: False, second))

    tx = optax.chain(
        optax.add_decayed_weights(oracle.DECAY, mask=decayed),
        optax.sgd(oracle.LR, oracle.MOMENTUM, nesterov=True),
    )
    return CASES[name].transform(tx)


class Carry(NamedTuple):
    trainable: Any
    state: Any
    opt_state: Any


def start(name: str, values: Any) -> Carry:
    trainable, state = method(name).init(values)
    return Carry(trainable, state, optimizer(name).init(trainable))


def step(name: str, carry: Carry, batch: Any) -> tuple[Carry, Any]:
    """The loop's body, as a user writes it. Also returns loss, penalty, and effective weights."""
    p, tx = method(name), optimizer(name)

    def loss_fn(trainable: Any, state: Any) -> Any:
        weights, new_state = p.apply(trainable, state)
        dtype = weights["first"]["kernel"].dtype
        x, y = (a.astype(dtype) for a in batch)
        hidden = jnp.tanh(x @ weights["first"]["kernel"] + weights["first"]["bias"][None])
        out = hidden @ weights["last"]["kernel"] + weights["last"]["bias"][None]
        loss = jnp.mean(jnp.square((out - y).astype(jnp.float32)))
        penalty = p.penalty(trainable, state)
        return loss + penalty, (new_state, loss, penalty, weights)

    grads, (state, *seen) = jax.grad(loss_fn, has_aux=True)(carry.trainable, carry.state)
    updates, opt_state = tx.update(grads, carry.opt_state, carry.trainable)
    return Carry(optax.apply_updates(carry.trainable, updates), state, opt_state), tuple(seen)


@functools.cache
def compiled_step(name: str) -> Any:
    return quick(lambda carry, batch: step(name, carry, batch))


@functools.cache
def compiled_scan(name: str) -> Any:
    """Many steps in one `scan`, of which those past a limit are skipped by a `cond`."""

    def run(carry: Carry, batches: Any, limit: Any) -> Any:
        def body(carry: Carry, item: Any) -> Any:
            index, batch = item
            taken = jax.lax.cond(
                index < limit, lambda c: step(name, c, batch)[0], lambda c: c, carry
            )
            return taken, None

        return jax.lax.scan(body, carry, (jnp.arange(len(batches[0])), batches))[0]

    return quick(run)


def train(name: str, values: Any, steps: int = STEPS) -> Any:
    """The user's loop. Returns the carry after ``steps`` and what each of them gave."""
    carry, seen = start(name, values), []
    for batch in zip(*(b[:steps] for b in data(STEPS)), strict=True):
        carry, of_step = compiled_step(name)(carry, batch)
        seen.append(of_step)
    return carry, jax.tree.map(lambda *leaves: np.stack(leaves), *seen)


@functools.cache
def finalize(name: str) -> Any:
    return quick(method(name).finalize)


def same(ours: Any, theirs: Any) -> None:
    """Asserts that two trees are equal bit for bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def near(ours: Any, theirs: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Asserts that two trees agree within round-off, and their masks and counters exactly."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jnp.floating):
            a, b = (np.asarray(v.astype(jnp.float32)) for v in (a, b))
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
