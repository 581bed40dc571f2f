"""The optimizers that every transform is tried with, on one small network."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from jaxprune.transforms import fixed_mask
from tests import quick

STEPS = 50
LR = 0.02


class Case(NamedTuple):
    """`masked(mask)` is the optimizer under test, `plain` what the hand-written loop runs."""

    masked: Callable[[Any], Any]
    plain: Any


class _Promoting:
    """Runs ``tx`` under a rule of dtype promotion, whatever the rule around it."""

    def __init__(self, tx: Any, rule: str):
        self.tx, self.rule = tx, rule

    def init(self, params: Any) -> Any:
        with jax.numpy_dtype_promotion(self.rule):
            return self.tx.init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        with jax.numpy_dtype_promotion(self.rule):
            return self.tx.update(updates, state, params, **extra_args)


def _promoting(tx: Any, rule: str) -> optax.GradientTransformationExtraArgs:
    if isinstance(tx, optax.GradientTransformation):
        tx = optax.with_extra_args_support(tx)
    wrapped = _Promoting(tx, rule)
    return optax.GradientTransformationExtraArgs(wrapped.init, wrapped.update)


def relaxed(tx: Any) -> optax.GradientTransformationExtraArgs:
    """Optax's own arithmetic mixes dtypes (adam raises a float to an int32 count)."""
    return _promoting(tx, "standard")


def masking(tx: Any, mask: Any) -> optax.GradientTransformationExtraArgs:
    """`fixed_mask`, itself under the strict rule, around an optimizer of optax."""
    return _promoting(fixed_mask(relaxed(tx), mask), "strict")


def _around(plain: Any) -> Case:
    return Case(lambda mask: masking(plain, mask), relaxed(plain))


def _both(make: Callable[[Callable[[Any], Any]], Any]) -> Case:
    """An optimizer with the wrap inside: ``make`` receives what to do with the inner one."""
    return Case(
        lambda mask: relaxed(make(lambda tx: masking(tx, mask))), relaxed(make(lambda tx: tx))
    )


def labels(params: Any) -> Any:
    """Kernels and the rest, written the way optax's users do, with `.items()`."""
    return {k: {name: name for name, _ in v.items()} for k, v in params.items()}


def labels_by_path(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


def _partition(wrap: Callable[[Any], Any], label: Any = labels) -> Any:
    return optax.partition(
        {"kernel": wrap(optax.adamw(LR)), "bias": wrap(optax.sgd(LR, 0.9))}, label
    )


def _injected(wrap: Callable[[Any], Any]) -> Any:
    def make(learning_rate: Any) -> Any:
        return wrap(optax.adamw(learning_rate))

    return optax.inject_hyperparams(make)(learning_rate=LR)


CASES: dict[str, Case] = {
    "sgd": _around(optax.sgd(LR)),
    "nesterov": _around(optax.sgd(LR, 0.9, nesterov=True)),
    "adam": _around(optax.adam(LR)),
    "adamw": _around(optax.adamw(LR, weight_decay=0.1)),
    "adafactor": _around(optax.adafactor(LR, momentum=0.9)),
    "adafactor_factored": _around(optax.adafactor(LR, min_dim_size_to_factor=2)),
    "lion": _around(optax.lion(LR)),
    "rmsprop": _around(optax.rmsprop(LR, centered=True, momentum=0.9)),
    "lamb": _around(optax.lamb(LR, weight_decay=0.1)),
    "lars": _around(optax.lars(LR)),
    "sm3": _around(optax.sm3(LR)),
    "muon": _around(optax.contrib.muon(LR)),
    "clip_adamw": _around(optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(LR))),
    "multisteps_inside": _around(optax.MultiSteps(optax.adamw(LR), 3)),
    "multisteps_outside": _both(lambda wrap: optax.MultiSteps(wrap(optax.adamw(LR)), 3)),
    "inject_inside": _around(optax.inject_hyperparams(optax.adamw)(learning_rate=LR)),
    "inject_outside": _both(_injected),
    "partition_inside": _around(_partition(lambda tx: tx)),
    "partition_inside_by_path": _around(_partition(lambda tx: tx, labels_by_path)),
    "partition_outside": _both(_partition),
    "partition_outside_prefix": _both(
        lambda wrap: optax.partition(
            {"a": wrap(optax.adam(LR)), "b": wrap(optax.sgd(LR, 0.9))}, {"conv": "a", "dense": "b"}
        )
    ),
    "schedule_free": _around(optax.contrib.schedule_free_sgd(LR, weight_decay=0.1)),
    "schedule_free_adamw": _around(optax.contrib.schedule_free_adamw(LR)),
    "apply_if_finite_inside": _around(optax.apply_if_finite(optax.adam(LR), 3)),
    "apply_if_finite_outside": _both(lambda wrap: optax.apply_if_finite(wrap(optax.adam(LR)), 3)),
}


def make_params(seed: int = 0, dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {
        "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "dense": {"kernel": (4, 3), "bias": (3,)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s) * 0.3, dtype),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def make_mask(seed: int = 1, kept: float = 0.4) -> Any:
    rng = np.random.default_rng(seed)
    return {
        "conv": {"kernel": jnp.asarray(rng.random((3, 3, 2, 4)) < kept), "bias": None},
        "dense": {"kernel": jnp.asarray(rng.random((4, 3)) < kept), "bias": None},
    }


def full_mask(mask: Any) -> Any:
    """The mask with all-True leaves in place of `None`: plain trees for the oracles."""
    return jax.tree.map(
        lambda m, p: np.ones(p.shape, bool) if m is None else np.asarray(m),
        mask,
        make_params(),
        is_leaf=lambda m: m is None,
    )


def times(params: Any, mask: Any) -> Any:
    """The oracles' masking: a product, where the library selects."""
    return multiply(params, full_mask(mask))


def multiply(tree: Any, full: Any) -> Any:
    return jax.tree.map(lambda x, m: x * m.astype(x.dtype), tree, full)


def make_batches(steps: int, seed: int = 2) -> Any:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(steps, 8, 3, 3, 2)), rng.normal(size=(steps, 8, 3))
    return x.astype(np.float32), y.astype(np.float32)


def grads_at(params: Any, batch: Any) -> Any:
    """Gradients of a least-squares loss, not zero where weights are pruned."""
    dtype = params["dense"]["kernel"].dtype
    x, y = (a.astype(dtype) for a in batch)

    def loss(p: Any) -> jax.Array:
        h = jnp.tanh(jnp.einsum("nhwc,hwco->no", x, p["conv"]["kernel"]) + p["conv"]["bias"][None])
        out = h @ p["dense"]["kernel"] + p["dense"]["bias"][None]
        return jnp.mean(jnp.square(out - y))

    return jax.grad(loss)(params)


EXACT = quick.OPTIONS  # the same arithmetic gives the same bits
# Here fusion itself reorders: the norms are sums over what the mask is fused into.
UNFUSED = EXACT | {"xla_disable_hlo_passes": "fusion,cpu-instruction-fusion"}
NEEDS_UNFUSED = ("lamb",)


@functools.cache
def masked(name: str) -> Any:
    """The optimizer under test, one instance, so that `train` compiles it once."""
    return CASES[name].masked(make_mask())


def train(
    tx: Any, params: Any, state: Any, *, mask: Any = None, name: str = "", batches: Any = None
) -> Any:
    """The user's loop. Returns ``(params, state), params of every step``.

    With ``mask`` it is the oracle instead: gradients and parameters are multiplied by the mask.
    ``name`` is that of the case, for the compiler's options.
    """
    step = compiled_step(tx, mask is not None, name in NEEDS_UNFUSED)
    full, path = None if mask is None else full_mask(mask), []
    for batch in zip(*(make_batches(STEPS) if batches is None else batches), strict=True):
        params, state = step(params, state, batch, full)
        path.append(params)
    return (params, state), stacked(path)


@functools.cache
def compiled_step(tx: Any, by_hand: bool, unfused: bool = False) -> Any:
    """One step of the loop of `train`, compiled once for all numbers of steps."""

    def step(params: Any, state: Any, batch: Any, mask: Any) -> Any:
        def masked(tree: Any) -> Any:
            return multiply(tree, mask) if by_hand else tree

        updates, state = tx.update(masked(grads_at(params, batch)), state, params)
        return masked(optax.apply_updates(params, updates)), state

    return jax.jit(step, compiler_options=UNFUSED if unfused else EXACT)


def stacked(trees: Any) -> Any:
    """Trees of every step as one, with the steps along a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def pruned_entries(tree: Any, mask: Any) -> np.ndarray:
    """The entries of the pruned weights; leading axes of ``tree`` are steps."""
    parts = [
        np.asarray(x)[..., ~m].astype(np.float64).ravel()
        for x, m in zip(jax.tree.leaves(tree), jax.tree.leaves(full_mask(mask)), strict=True)
    ]
    return np.concatenate(parts)


def moments_of_pruned(state: Any, mask: Any) -> np.ndarray:
    """Entries of state leaves that carry a weight's path and shape, where it is pruned."""
    masks = {"conv/kernel": mask["conv"]["kernel"], "dense/kernel": mask["dense"]["kernel"]}
    found = [np.zeros(0)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for end, m in masks.items():
            if name.endswith(end) and leaf.shape == m.shape and leaf.dtype != bool:
                found.append(np.asarray(leaf)[~np.asarray(m)].astype(np.float64))
    return np.concatenate(found)
