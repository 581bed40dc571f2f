"""Counts of a model from shapes alone: nothing is compiled or computed."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxprune import metrics


def image(side, channels=3):
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def tokens(length):
    return jax.ShapeDtypeStruct((1, length), jnp.int32)


@functools.cache
def variables(model, x):
    """(params, model_state) for an input. Not to be written to: the next caller gets them too."""
    found = jax.eval_shape(lambda key, x: model.init(key, x, False), jax.random.key(0), x)
    return found["params"], {name: found[name] for name in found if name != "params"}


def count(params, below=""):
    """Entries of all leaves, or of those whose first path part begins with `below`."""
    kept = {name: params[name] for name in params if name.startswith(below)}
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(kept))


@functools.cache
def macs(model, x):
    """Multiply-accumulates of one example."""
    params, state = variables(model, x)

    def apply(params, state, x):
        return model.apply({"params": params, **state}, x, False)

    return metrics.flops(apply, params, state, x).macs
