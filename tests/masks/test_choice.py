"""Masks of one array whose counts are arguments of the compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

SCORES = jnp.asarray(np.random.default_rng(0).integers(0, 9, (8, 6)), jnp.float32)  # with ties


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"allocation": jp.masks.per_output(axis=-1)},
        {"pattern": jp.masks.block(2, 3)},
        {"pattern": jp.masks.nm(2, 4, axis=0)},
    ],
    ids=["globally", "per_output", "block", "nm"],
)
def test_it_makes_the_masks_of_make_with_one_program(rules):
    sparsities = [None] if "nm" in str(rules.get("pattern")) else [0.25, 0.5, 0.7]
    choice, counts = jp.masks.choice(jax.eval_shape(lambda: SCORES), sparsities, **rules)
    made = jax.jit(choice.make)
    for sparsity, count in zip(sparsities, counts, strict=True):
        expected = jp.masks.make({"w": SCORES}, sparsity, **rules)["w"]
        np.testing.assert_array_equal(made(SCORES, count), expected)
    assert made._cache_size() == 1
    assert jp.masks.choice(SCORES, sparsities, **rules)[0] == choice
    hash(choice)


def test_rules_are_told_the_path():
    def only(path, leaf):
        return jp.masks.nm(1, 2, axis=0)(path, leaf) if path == "a/b" else None

    like = jax.eval_shape(lambda: SCORES)
    assert jp.masks.choice(like, [None], pattern=only, path="a/b")[0].spec.kept == 1
    assert jp.masks.choice(like, [0.5], pattern=only, path="b")[0].spec is None


def test_limits_are_refused():
    limited = jp.masks.globally(max_sparsity=0.8)
    with pytest.raises(ValueError, match="'up' has limits"):
        jp.masks.choice(SCORES, [0.5], allocation=limited, path="up")
