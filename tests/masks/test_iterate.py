"""Pruning in many steps: what the loop is, and what it is for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

WIDTHS = (8, 16, 16, 4)


def mlp(seed=0):
    """Glorot weights."""
    rng = np.random.default_rng(seed)
    return {
        f"Dense_{i}": {
            "kernel": jnp.asarray(rng.normal(size=(a, b)) * np.sqrt(2 / (a + b)), jnp.float32),
            "bias": jnp.zeros((b,), jnp.float32),
        }
        for i, (a, b) in enumerate(itertools.pairwise(WIDTHS))
    }


def apply(params, x):
    for i in range(len(WIDTHS) - 1):
        layer = params[f"Dense_{i}"]
        x = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x) if i < len(WIDTHS) - 2 else x
    return x


@jax.jit
def synflow(params):
    return jp.scores.synflow(apply, params, jnp.zeros((1, WIDTHS[0]), jnp.float32))


def kept(mask):
    return [int(m.sum()) for m in jax.tree.leaves(mask)]


@pytest.mark.parametrize("allocation", [None, jp.masks.uniform()])
@pytest.mark.parametrize("iterations", [1, 7])
def test_equals_a_loop_of_prunes(allocation, iterations):
    pruned, mask = jp.masks.prune_iteratively(
        mlp(), 0.8, scores=synflow, iterations=iterations, allocation=allocation
    )
    params, within = mlp(), None
    for i in range(1, iterations + 1):
        sparsity = 0.8 if i == iterations else 1 - 0.2 ** (i / iterations)
        params, within = jp.prune(
            params, sparsity, scores=synflow, within=within, allocation=allocation
        )
    for a, b in zip(
        jax.tree.leaves((pruned, mask)), jax.tree.leaves((params, within)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert all(layer["bias"] is None for layer in mask.values())


def test_small_steps_do_not_cut_the_network_where_one_does():
    sparsity = 0.98  # at once 9 weights stay, all in the last layer; step by step 3, 2 and 4
    allow = jp.masks.globally(on_collapse="allow")
    _, at_once = jp.prune(mlp(), sparsity, scores=synflow, allocation=allow)
    assert 0 in kept(at_once)
    with pytest.raises(ValueError, match="no weight is left of"):
        jp.prune(mlp(), sparsity, scores=synflow)
    pruned, mask = jp.masks.prune_iteratively(mlp(), sparsity, scores=synflow)
    assert 0 not in kept(mask)
    n = sum(a * b for a, b in itertools.pairwise(WIDTHS))
    assert sum(kept(mask)) == n - round(sparsity * n)
    # Flow is conserved: a path from the inputs to the outputs is left.
    positive = jax.tree.map(jnp.abs, pruned)
    assert float(jnp.sum(apply(positive, jnp.ones((1, WIDTHS[0]), jnp.float32)))) > 0


def test_a_hundred_steps_with_shares_of_a_total():
    params, limits = mlp(), {"Dense_2/kernel": 0.5}
    _, mask = jp.masks.prune_iteratively(
        params, 0.8, scores=jp.scores.magnitude, allocation=jp.masks.uniform(max_sparsity=limits)
    )
    assert kept(mask)[2] >= 32
    assert sum(kept(mask)) == 448 - round(0.8 * 448)


def test_errors():
    with pytest.raises(TypeError, match="scores is a function from parameters"):
        jp.masks.prune_iteratively(mlp(), 0.5, scores=jp.scores.magnitude(mlp()))
    for iterations in (0, -3):
        with pytest.raises(ValueError, match=f"at least 1; got {iterations}"):
            jp.masks.prune_iteratively(mlp(), 0.5, scores=synflow, iterations=iterations)
    bad = mlp()
    bad["Dense_1"]["kernel"] = bad["Dense_1"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="weights at 'Dense_1/kernel' hold NaN"):
        jp.masks.prune_iteratively(bad, 0.5, scores=jp.scores.magnitude)
    for sparsity in (1.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=rf"in \[0, 1\); got {sparsity}"):
            jp.masks.prune_iteratively(mlp(), sparsity, scores=jp.scores.magnitude, iterations=3)
    with pytest.raises(TypeError, match="sparsity is a number"):
        jp.masks.prune_iteratively(mlp(), None, scores=jp.scores.magnitude, iterations=3)
    prune = jax.jit(
        lambda s: jp.masks.prune_iteratively(mlp(), s, scores=jp.scores.magnitude, iterations=3)
    )
    with pytest.raises(TypeError, match=r"as a Python number, .*got the traced .* static argument"):
        prune(0.5)


def test_in_compiled_code_with_a_static_sparsity():
    def prune(params, sparsity):
        return jp.masks.prune_iteratively(
            params, sparsity, scores=jp.scores.magnitude, iterations=3
        )

    _, compiled = jax.jit(prune, static_argnames="sparsity")(mlp(), sparsity=0.5)
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(prune(mlp(), 0.5)[1]), strict=True):
        np.testing.assert_array_equal(a, b)
