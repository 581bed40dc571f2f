"""What the tests of this folder share."""

import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import schedules

# Le & Hua's CIFAR run, an epoch standing for a step: 0.1, divided by 10 at 80 and 120 of 160.
DENSE = optax.piecewise_constant_schedule(0.1, {80: 0.1, 120: 0.1})
NAMES = tuple(schedules.RETRAINING)
TUNABLE = ("constant", "stepped", "cosine", "linear")


def needed(name, *, peak=0.02, discount=0.5):
    """The options that schedule `name` cannot do without."""
    return {"allr": {"discount": discount}} | {n: {"peak": peak} for n in TUNABLE}


def build(name, pretraining=DENSE, T=160, N=20, **options):
    options = needed(name).get(name, {}) | options
    return schedules.RETRAINING[name](
        pretraining, pretraining_steps=T, retraining_steps=N, **options
    )


def rates(schedule, steps):
    out = schedule(jnp.arange(steps))
    assert out.dtype == jnp.float32
    assert out.shape == (steps,)
    return np.asarray(out)


def bits(x):
    return np.asarray(x).view(np.int32)
