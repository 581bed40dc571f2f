"""One variable in two places of a Flax NNX module: refused as a tree, kept once when split."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(5, 5, rngs=rngs)
        self.b = nnx.Linear(5, 5, rngs=rngs)
        self.b.kernel = self.a.kernel
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))


class Shared(nnx.Module):
    """One layer under two names, and one random stream in two places."""

    def __init__(self, rngs):
        self.a = nnx.Linear(5, 5, rngs=rngs)
        self.b = self.a


def grads_of(model):
    return jax.tree.map(jnp.ones_like, model)


TIED = "'b/.*' and 'a/.*' are one variable of a Flax NNX module.*nnx.split"
USES = {
    "prune": lambda m: jp.prune(m, 0.5),
    "apply_mask": lambda m: jp.apply_mask(m, jp.masks.dense(jax.tree.map(lambda x: x, m))),
    "magnitude": jp.scores.magnitude,
    "random": lambda m: jp.scores.random(jax.random.key(0), m),
    "taylor": lambda m: jp.scores.taylor(m, grads_of(m)),
    "geometric_median": jp.scores.geometric_median,
    "dense": jp.masks.dense,
    "report": jp.masks.report,
    "gmp": lambda m: jp.transforms.gmp(optax.sgd(0.1), 0.5, total_steps=4, interval=1).init(m),
    "fixed_mask": lambda m: jp.transforms.fixed_mask(
        optax.sgd(0.1), jp.masks.dense(jax.tree.map(lambda x: x, m))
    ).init(m),
    "str_": lambda m: jp.parametrizations.str_().init(m),
    "size_in_bytes": jp.metrics.size_in_bytes,
}


def only_kernels(module):
    """Without the random stream, whose integers are no parameters."""
    module.dropout = None
    return module


@pytest.mark.parametrize("name", USES)
def test_a_module_with_a_tied_variable_is_refused(name):
    with pytest.raises(ValueError, match=TIED):
        USES[name](only_kernels(Tied(nnx.Rngs(0))))


def test_a_module_with_a_shared_layer_is_refused():
    with pytest.raises(ValueError, match=TIED):
        jp.prune(Shared(nnx.Rngs(0)), 0.5)
    with pytest.raises(ValueError, match=TIED):
        jp.prune({"a": (shared := Shared(nnx.Rngs(0)).a), "b": shared}, 0.5)


@pytest.mark.parametrize("masked", [True, False])
def test_a_state_of_a_tied_module_is_refused(masked):
    with pytest.raises(ValueError, match=TIED):
        jp.training.TrainState.create(
            only_kernels(Tied(nnx.Rngs(0))), optax.sgd, masked=masked, key=jax.random.key(0)
        )


def test_channels_of_a_tied_module_are_refused():
    with pytest.raises(ValueError, match=TIED):
        jp.structured.channel_groups(
            lambda m, x: m(x), only_kernels(Tied(nnx.Rngs(0))), jnp.ones((1, 5))
        )


def test_the_state_of_a_split_module_has_it_once_and_merges_tied():
    graphdef, params, rest = nnx.split(Tied(nnx.Rngs(0)), nnx.Param, ...)
    pruned, mask = jp.prune(params, 0.48)
    assert jp.metrics.counts(mask) == (13, 25)
    model = nnx.merge(graphdef, pruned, rest)
    assert model.a.kernel is model.b.kernel
    assert int(np.count_nonzero(model.b.kernel[...])) == 13


def test_a_module_whose_random_streams_alone_are_shared_is_pruned():
    class Streams(nnx.Module):
        def __init__(self, rngs):
            self.rngs = rngs
            self.same = rngs
            self.a = nnx.Linear(5, 4, rngs=rngs)

    pruned, mask = jp.prune(Streams(nnx.Rngs(0)), 0.5)
    assert isinstance(pruned, nnx.Module)
    assert jp.metrics.counts(mask) == (10, 20)


def test_plain_trees_have_no_identity():
    w = jnp.arange(1.0, 5.0).reshape(2, 2)
    _, mask = jp.prune({"a": {"kernel": w}, "b": {"kernel": w}}, 0.5)
    assert jp.metrics.counts(mask) == (4, 8)
