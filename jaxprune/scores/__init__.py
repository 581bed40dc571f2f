"""How important is a weight. A score tree looks like the parameters; higher stays.

Scores compose by arithmetic: a sum, a product or a rank of scores is a `jax.tree.map` over their
trees. Whatever tree of floating arrays comes out is again a score::

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxprune as jp
    >>> params, grads = {"kernel": jnp.array([[-2.0, 1.0]])}, {"kernel": jnp.array([[0.5, 3.0]])}
    >>> magnitude, taylor = jp.scores.magnitude(params), jp.scores.taylor(params, grads)
    >>> jax.tree.map(lambda m, t: 0.5 * m + 0.5 * t, magnitude, taylor)
    {'kernel': Array([[1.5, 2. ]], dtype=float32)}
"""

from jaxprune.scores._batch_norm_scale import batch_norm_scale as batch_norm_scale
from jaxprune.scores._fisher import diagonal_fisher as diagonal_fisher
from jaxprune.scores._fisher import fisher as fisher
from jaxprune.scores._geometric_median import geometric_median as geometric_median
from jaxprune.scores._grasp import grasp as grasp
from jaxprune.scores._grasp import hessian_gradient_product as hessian_gradient_product
from jaxprune.scores._input_norms import input_norms as input_norms
from jaxprune.scores._lamp import lamp as lamp
from jaxprune.scores._magnitude import magnitude as magnitude
from jaxprune.scores._movement import movement as movement
from jaxprune.scores._random import random as random
from jaxprune.scores._snip import snip as snip
from jaxprune.scores._synflow import synflow as synflow
from jaxprune.scores._taylor import taylor as taylor
from jaxprune.scores._wanda import wanda as wanda

SCORES = {
    "magnitude": magnitude,
    "random": random,
    "taylor": taylor,
    "snip": snip,
    "grasp": grasp,
    "fisher": fisher,
    "synflow": synflow,
    "wanda": wanda,
    "movement": movement,
    "geometric_median": geometric_median,
    "batch_norm_scale": batch_norm_scale,
    "lamp": lamp,
}
"""The scores by their names on a command line.

A score is registered here and nowhere else. What it needs beside the parameters is read from its
signature.
"""
