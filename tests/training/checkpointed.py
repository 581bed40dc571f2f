"""Short runs of `imp` that are saved, stopped and compared."""

import jax
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training import meshed, problem

# What a failed save or restore of Orbax leaves behind complains later, also in the next
# test: when it is collected, or when a read ends that nobody waits for any more.
loud_when_collected = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)

STEPS, RETRAINING, CYCLES = 24, 10, 2
TOTAL = STEPS + CYCLES * RETRAINING
TRAIN = problem.loop(chunk_steps=4)


def imp(checkpoints=None, train=TRAIN, state=None, **options):
    defaults = {
        "evaluate": problem.evaluate,
        "pretraining": optax.linear_schedule(0.1, 0.0, STEPS),
        "pretraining_steps": STEPS,
        "sparsity": 0.8,
        "cycles": CYCLES,
        "retraining_steps": RETRAINING,
        "checkpoints": checkpoints,
    }
    state = problem.state() if state is None else state
    return jp.training.imp(state, train, **{**defaults, **options})


def imp_on(devices, checkpoints, **options):
    """A run on other devices, by their name."""
    settings = {
        "evaluate": meshed.evaluate(),
        "pretraining_steps": 12,
        "pretraining": optax.linear_schedule(0.1, 0.0, 12),
        "retraining_steps": 4,
    }
    train = meshed.loop(devices)
    return imp(checkpoints, **{"train": train, "state": meshed.state(), **settings, **options})


def raw(x):
    return jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(raw(x), raw(y))


def assert_same_run(a, b):
    assert_equal(a.state, b.state)
    for one, other in zip(a.records, b.records, strict=True):
        for name in one._fields:
            if name == "metrics":
                assert_equal(one.metrics, other.metrics)
            elif name == "info":
                assert (one.info is None) == (other.info is None)
            elif name == "learning_rates":
                np.testing.assert_array_equal(one.learning_rates, other.learning_rates)
            elif name != "seconds":
                assert getattr(one, name) == getattr(other, name), name


def after(chunks):
    """A `stop` that asks to end before one chunk, counted over the run."""
    asked = iter(range(10**6))
    return lambda: next(asked) == chunks
