"""Masks made by compiled code on one device beside those made on the host; run as a program.

    python -m tests.masks.one_device [--all]

A process of its own, because the tests' process has eight devices, and on one the small leaves are
laid out together.
"""

import itertools
import os
import sys
import warnings

if __name__ == "__main__":  # pytest imports it, too, to look for examples
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

SHAPES = {
    "few": [(8, 4), (16, 12), (6, 3), (4, 40), (12, 12)],
    "more than are cut out at constant places": [(4, 4 + i % 5) for i in range(20)],
    "large among small": [(600, 500), (8, 4), (16, 12), (64, 64), (700, 500), (4, 8)],
}
ALLOCATIONS = {
    "globally": jp.masks.globally(on_collapse="allow"),
    "globally, limited": jp.masks.globally(max_sparsity=0.9, min_sparsity=0.1, on_collapse="allow"),
    "uniform": jp.masks.uniform(on_collapse="allow"),
    "uniform, limited": jp.masks.uniform(max_sparsity={"leaf_001": 0.3}, on_collapse="allow"),
    "erk": jp.masks.erk(on_collapse="allow"),
}
PATTERNS = {
    "none": None,
    "2:4": jp.masks.nm(2, 4, axis=0, remainder="dense"),
    "channels": jp.masks.channels(-1),
}
DTYPES = ("float32", "bfloat16")
NAMES = (list(SHAPES), list(ALLOCATIONS), list(PATTERNS), DTYPES, ("distinct", "tied"))
# Each value of each kind at least once, and the pairs that share code.
COVER = (
    ("few", "globally", "none", "float32", "tied"),
    ("few", "globally, limited", "none", "bfloat16", "tied"),
    ("more than are cut out at constant places", "uniform", "none", "float32", "distinct"),
    ("more than are cut out at constant places", "erk", "channels", "bfloat16", "tied"),
    ("large among small", "globally", "none", "float32", "distinct"),
    ("large among small", "uniform, limited", "none", "float32", "tied"),
)


def scores_of(shapes, dtype, kind):
    random = np.random.default_rng(0)
    leaves = {}
    for i, shape in enumerate(shapes):
        x = random.standard_normal(shape).astype(np.float32)
        x = np.round(2 * x) / 2 if kind == "tied" else x
        leaves[f"leaf_{i:03}"] = jnp.asarray(x).astype(dtype)
    if kind == "distinct":
        leaves["leaf_001"] = leaves["leaf_001"].at[0, 0].set(jnp.nan)
    return leaves


def check(shapes, allocation, pattern, dtype, kind):
    scores = scores_of(SHAPES[shapes], dtype, kind)
    options = {"allocation": ALLOCATIONS[allocation], "pattern": PATTERNS[pattern]}
    first, second = (None, None) if pattern == "2:4" else (0.4, 0.7)

    def make(scores, sparsity, within):
        return jp.masks.make_with_info(scores, sparsity, within=within, **options)

    compiled = jax.jit(make, static_argnums=1)
    before, _ = make(scores, first, None)
    keep = np.random.default_rng(1)
    if pattern == "none":
        before = {k: m & (keep.random(m.shape) < 0.9) for k, m in before.items()}
    for sparsity, within in ((first, None), (second, before)):
        here, there = make(scores, sparsity, within), compiled(scores, sparsity, within)
        for x, y in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def check_vmap():
    stacked = [scores_of(SHAPES["few"], "float32", "tied") for _ in range(3)]
    stacked = [jax.tree.map(lambda x, i=i: jnp.roll(x, i), s) for i, s in enumerate(stacked)]

    def make(scores):
        return jp.masks.make(scores, 0.6)

    found = jax.jit(jax.vmap(make))(jax.tree.map(lambda *x: jnp.stack(x), *stacked))
    for i, scores in enumerate(stacked):
        for name, mask in make(scores).items():
            np.testing.assert_array_equal(np.asarray(found[name][i]), np.asarray(mask))


def main(everything):
    warnings.simplefilter("ignore", UserWarning)  # of masks that remove nothing
    assert jax.device_count() == 1
    cases = list(itertools.product(*NAMES)) if everything else COVER
    for case in cases:
        try:
            check(*case)
        except Exception as error:
            error.add_note(f"of the case {case}")
            raise
    check_vmap()
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main(everything="--all" in sys.argv)
