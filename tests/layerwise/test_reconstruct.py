"""Windows that learn to do what they did when they were dense."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.layerwise import networks

lw = jp.layerwise
HALVES = [r"attention.*\[(\d)\]", r"(?:up|down).*\[(\d)\]"]


@pytest.fixture(scope="module")
def pruned():
    batches = networks.batches((4, 5, 8), n=4)
    model = networks.Scanned()
    dense = model.init(jax.random.key(1), batches[0])
    params, mask = jp.prune(
        dense, 0.6, allocation=jp.masks.uniform(), stacked={"params/layers/.*": 0}
    )
    return model, dense, params, mask, batches


def far(model, params, dense, batches):
    return sum(
        float(jnp.sum((model.apply(params, x) - model.apply(dense, x)) ** 2)) for x in batches
    )


def check_zeros(params, mask):
    for x, m in zip(
        jax.tree.leaves(params), jax.tree.leaves(mask, is_leaf=lambda m: m is None), strict=True
    ):
        if m is not None:
            assert not np.asarray(x)[~np.asarray(m)].any()


@pytest.mark.parametrize("inputs", ["dense", "pruned"])
def test_half_blocks_come_near_the_dense_network(pruned, inputs):
    model, dense, params, mask, batches = pruned
    records = []
    better = lw.reconstruct(
        model.apply,
        params,
        mask,
        batches,
        dense=dense,
        tx=optax.sgd(0.3, 0.9),
        steps=40,
        windows=HALVES,
        inputs=inputs,
        on_window=records.append,
    )
    assert [len(record.names) for record in records] == [4, 2] * 3 + [1]
    assert all(record.after < record.before for record in records)
    assert far(model, better, dense, batches) < 0.7 * far(model, params, dense, batches)
    check_zeros(better, mask)
    for path in ("LayerNorm_0", "LayerNorm_1"):
        for a, b in zip(
            jax.tree.leaves(params["params"]["layers"][path]),
            jax.tree.leaves(better["params"]["layers"][path]),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_one_window_is_plain_training_of_its_loss():
    """Against the same steps written out."""
    apply, dense = networks.mlp()
    params, mask = jp.prune(dense, 0.5)
    batches = networks.batches((9, 6), n=2)
    found = lw.reconstruct(
        apply, params, mask, batches, dense=dense, tx=optax.sgd(0.1), steps=3, windows=["."]
    )

    def loss(p, x):
        y = apply(dense, x)
        return jnp.mean((apply(jp.apply_mask(p, mask), x) - y) ** 2) / jnp.mean(y**2)

    by_hand = params
    for k in range(3):
        gradient = jax.grad(loss)(by_hand, batches[k % 2])
        gradient["a"]["b"] = jnp.zeros((1, 10))
        by_hand = jax.tree.map(lambda p, g: p - 0.1 * g, by_hand, gradient)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dense_weights_have_nothing_to_learn():
    apply, dense = networks.mlp()
    mask = jp.masks.dense(dense)
    records = []
    found = lw.reconstruct(
        apply, dense, mask, networks.batches((9, 6)), dense=dense, tx=optax.sgd(0.1), steps=2,
        loss="cosine", on_window=records.append,
    )  # fmt: skip
    assert all(abs(record.before) < 1e-6 for record in records)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_adapters_learn_and_are_merged(pruned):
    model, dense, params, mask, batches = pruned
    records = []

    def adapt(kernels, masks):
        return jp.adapters.mask_lora(kernels, masks, rank=2, key=jax.random.key(0))

    better = lw.reconstruct(
        model.apply, params, mask, batches, dense=dense, tx=optax.sgd(0.02), steps=30,
        windows=HALVES, adapt=adapt, on_window=records.append,
    )  # fmt: skip
    assert all(record.after < record.before for record in records)
    assert far(model, better, dense, batches) < far(model, params, dense, batches)
    check_zeros(better, mask)


def test_layers_that_are_alike_share_a_program(pruned, monkeypatch):
    from jaxprune.layerwise import _reconstruct

    made = []
    trainer = _reconstruct._Trainer

    def counted(*args):
        made.append(args)
        return trainer(*args)

    monkeypatch.setattr(_reconstruct, "_Trainer", counted)
    model, dense, params, mask, batches = pruned
    lw.reconstruct(
        model.apply, params, mask, batches, dense=dense, tx=optax.sgd(0.1), steps=1, windows=HALVES
    )
    assert len(made) <= 4  # attention, MLP, the last MLP (the head's input), the head


def test_bad_input():
    apply, dense = networks.mlp()
    params, mask = jp.prune(dense, 0.5)
    batches = networks.batches((9, 6), n=2)
    options = {"dense": dense, "tx": optax.sgd(0.1), "steps": 2}
    with pytest.raises(ValueError, match="inputs"):
        lw.reconstruct(apply, params, mask, batches, **options, inputs="both")
    with pytest.raises(ValueError, match="loss"):
        lw.reconstruct(apply, params, mask, batches, **options, loss="l1")
    with pytest.raises(ValueError, match="only one has 'b/w'"):
        lw.reconstruct(apply, params, mask, batches, **{**options, "dense": {"a": dense["a"]}})
    with pytest.raises(ValueError, match=r"loss of the window of .* became nan"):
        lw.reconstruct(
            apply, params, mask, batches, **{**options, "tx": optax.sgd(1e30), "steps": 5},
        )  # fmt: skip
