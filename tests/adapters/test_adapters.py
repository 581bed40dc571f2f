"""Adapters beside pruned weights: what the forward pass sees, merging, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from tests.training import problem

RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float32):
    return jnp.asarray(RNG.normal(size=shape).astype(dtype))


PARAMS, MASK = jp.prune(
    {
        "conv": {"kernel": normal(3, 3, 4, 6), "bias": normal(6)},
        "dense": {"kernel": normal(10, 7)},
        "norm": {"scale": normal(7)},
    },
    0.6,
)
MAKERS = {
    "mask_lora": lambda *args, **more: jp.adapters.mask_lora(*args, key=jax.random.key(1), **more),
    "lora": lambda *args, **more: jp.adapters.lora(*args, key=jax.random.key(1), **more),
    "scale_lora": jp.adapters.scale_lora,
}


def moved(adapters, seed=3):
    """Adapters after some training: every number drawn anew."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), adapters)


def by_hand(w, m, adapter, kind, alpha, *, merged=True):
    """In float64, with the weight as a matrix of rows and columns."""
    rank = adapter.left.shape[-1]
    left = np.asarray(adapter.left, np.float64).reshape(-1, rank)
    right = np.asarray(adapter.right, np.float64).reshape(rank, -1)
    product = (left @ right).reshape(w.shape)
    w, m = np.asarray(w, np.float64), np.asarray(m)
    if kind == "scale_lora":
        return w * m * product
    change = alpha / rank * product
    return w * m + (change * m if merged or kind == "mask_lora" else change)


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_changes_at_the_start(kind):
    adapters = MAKERS[kind](PARAMS, MASK, rank=4)
    for seen in (
        jp.adapters.effective(PARAMS, adapters, MASK),
        jp.adapters.merge(PARAMS, adapters, MASK),
    ):
        for x, y in zip(jax.tree.leaves(seen), jax.tree.leaves(PARAMS), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
def test_against_matrices_by_hand(kind):
    adapters = moved(MAKERS[kind](PARAMS, MASK, rank=3))
    merged = jp.adapters.merge(PARAMS, adapters, MASK)
    seen = jp.adapters.effective(PARAMS, adapters, MASK)
    for layer in ("conv", "dense"):
        w, m, adapter = (t[layer]["kernel"] for t in (PARAMS, MASK, adapters.tree))
        assert adapter.left.shape[-1] == 3
        expected = by_hand(w, m, adapter, kind, 32.0)
        np.testing.assert_allclose(merged[layer]["kernel"], expected, rtol=1e-5, atol=1e-5)
        expected = by_hand(w, m, adapter, kind, 32.0, merged=False)
        np.testing.assert_allclose(seen[layer]["kernel"], expected, rtol=1e-5, atol=1e-5)
    assert merged["norm"]["scale"] is not None
    jp.assert_sparse(merged, MASK)
    np.testing.assert_array_equal(merged["conv"]["bias"], PARAMS["conv"]["bias"])


def test_factors_are_as_small_as_can_be():
    leaf = lambda *shape: jnp.ones(shape)  # noqa: E731
    params = {
        "conv/kernel": leaf(3, 3, 8, 20),  # 72 rows, 20 columns
        "equinox/weight": leaf(20, 8, 3, 3),  # outputs first: 20 rows, 72 columns
        "heads/kernel": leaf(16, 2, 8),
        "head/kernel": leaf(12, 3),  # fewer columns than the rank
    }
    adapters = jp.adapters.scale_lora(params, jp.masks.dense(params), rank=4)
    shapes = {k: (f.left.shape, f.right.shape) for k, f in adapters.tree.items()}
    assert shapes == {
        "conv/kernel": ((3, 3, 8, 4), (4, 20)),
        "equinox/weight": ((20, 4), (4, 8, 3, 3)),
        "heads/kernel": ((16, 4), (4, 2, 8)),
        "head/kernel": ((12, 3), (3, 3)),
    }


@pytest.mark.parametrize("kind", ["mask_lora", "scale_lora"])
@pytest.mark.parametrize("axes", [0, 1, (0, 2)])
def test_stacked_layers_have_factors_of_their_own(kind, axes):
    w = normal(3, 6, 3, 5)
    mask = {"w": jnp.asarray(RNG.random(w.shape) < 0.5)}
    params = {"w": jnp.where(mask["w"], w, 0)}
    adapters = moved(MAKERS[kind](params, mask, rank=2, stacked={"w": axes}))
    merged = jp.adapters.merge(params, adapters, mask)["w"]
    several = axes if isinstance(axes, tuple) else (axes,)
    factors = adapters.tree["w"]
    for index in np.ndindex(*(w.shape[a] for a in several)):
        place = [slice(None)] * 4
        for axis, i in zip(several, index, strict=True):
            place[axis] = i
        own = jp.adapters.Factors(factors.left[index], factors.right[index])
        layer, m = params["w"][tuple(place)], mask["w"][tuple(place)]
        expected = by_hand(layer, m, own, kind, 32.0)
        np.testing.assert_allclose(merged[tuple(place)], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_weights_are_rounded_once_and_keep_their_zeros(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    adapters = moved(MAKERS["mask_lora"](params, MASK, rank=2))
    assert {x.dtype for x in jax.tree.leaves(adapters)} == {np.dtype("float32")}
    merged = jp.adapters.merge(params, adapters, MASK)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    exact = jp.adapters.merge(wide, adapters, MASK)
    for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(exact), strict=True):
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, y.astype(dtype))
    jp.assert_sparse(merged, MASK)


def test_the_mask_decides_and_not_the_value():
    # A kept weight whose value is zero is trained, and pruned ones stay at +0 whatever they hold.
    params = {"w": jnp.array([[0.0, 5.0], [jnp.nan, 1.0]])}
    mask = {"w": jnp.array([[True, True], [False, False]])}
    adapters = moved(MAKERS["mask_lora"](params, mask, rank=1))
    merged = jp.adapters.merge(params, adapters, mask)["w"]
    assert merged[0, 0] != 0
    np.testing.assert_array_equal(merged[1], 0)
    assert not np.signbit(merged[1]).any()


def squared(params):
    return sum(jnp.sum(jnp.sin(x) ** 2) for x in jax.tree.leaves(params))


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_are_those_of_differences(kind):
    adapters = moved(MAKERS[kind](PARAMS, MASK, rank=2, also=lambda path, leaf: "bias" in path))

    def loss(adapters):
        return squared(jp.adapters.effective(PARAMS, adapters, MASK))

    grads = jax.jit(jax.grad(loss))(adapters)
    assert jax.tree.structure(grads) == jax.tree.structure(adapters)
    direction = moved(adapters, seed=5)
    slope = sum(
        jnp.vdot(a, b)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
    )
    ahead, behind = (
        loss(jax.tree.map(lambda x, d: x + step * d, adapters, direction))  # noqa: B023
        for step in (1e-3, -1e-3)
    )
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-3, rtol=2e-2, atol=0.3)


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


@pytest.mark.parametrize("kind", MAKERS)
def test_training_with_few_parameters(kind):
    params, mask = jp.prune(problem.params(), 0.8)
    adapters = MAKERS[kind](params, mask, rank=2, also=lambda path, leaf: path.endswith("bias"))
    net = jp.adapters.adapted(adapters, params, mask, problem.loss_fn, problem.eval_fn)
    state = jp.training.TrainState.create(
        net.params, sgd, model_state=net.model_state, masked=False, key=jax.random.key(0)
    )
    size = sum(x.size for x in jax.tree.leaves(adapters))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) < size + 10
    train = jp.training.make_loop(
        jp.training.make_train_step(net.loss_fn, sgd), problem.batch_at, chunk_steps=20
    )
    evaluate = jp.training.make_evaluate(net.eval_fn, problem.DATA, batch_size=64)
    before = evaluate(state)["accuracy"]
    state, metrics = train(state, [0.005] * 60)
    assert metrics["loss"][-10:].mean() < metrics["loss"][:10].mean()
    merged = jp.adapters.merge(params, state.params, mask)
    jp.assert_sparse(merged, mask)
    for x, y in zip(
        jax.tree.leaves(state.model_state.params), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    if kind != "lora":  # what was trained is what is merged
        plain = jp.training.TrainState.create(merged, sgd, mask=mask, key=jax.random.key(0))
        accuracy = problem.evaluate(plain)["accuracy"]
        assert accuracy == pytest.approx(evaluate(state)["accuracy"], abs=1e-6)
        assert accuracy >= before


def test_on_a_mesh_factors_lie_as_the_program_puts_them():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))
    place = NamedSharding(mesh, PartitionSpec("a", "b"))
    params, mask = jp.prune({"w": normal(16, 8)}, 0.5)
    there = jax.device_put((params, mask), place)
    adapters = moved(MAKERS["mask_lora"](params, mask, rank=2))
    merged = jp.adapters.merge(*there[:1], adapters, there[1])["w"]
    alone = jp.adapters.merge(params, adapters, mask)["w"]
    np.testing.assert_allclose(merged, alone, rtol=1e-6)
    assert merged.sharding.is_equivalent_to(place, 2)


def test_what_cannot_be():
    make = MAKERS["mask_lora"]
    with pytest.raises(ValueError, match="rank is at least 1; got 0"):
        make(PARAMS, MASK, rank=0)
    with pytest.raises(TypeError, match=r"rank is a number of columns.*got 2\.5"):
        make(PARAMS, MASK, rank=2.5)
    with pytest.raises(ValueError, match="alpha is a positive number; got 0"):
        make(PARAMS, MASK, alpha=0)
    with pytest.raises(ValueError, match="nothing would be trained"):
        make(PARAMS, MASK, where=lambda path, leaf: False)
    with pytest.raises(ValueError, match="`also` selects 'dense/kernel', which is pruned"):
        make(
            PARAMS,
            MASK,
            where=lambda path, leaf: "conv" in path,
            also=lambda path, leaf: path == "dense/kernel",
        )
    other = {"dense": PARAMS["dense"]}
    adapters = make(PARAMS, MASK)
    with pytest.raises(ValueError, match="the mask is of another tree"):
        jp.adapters.merge(other, adapters, MASK)
    with pytest.raises(ValueError, match="the adapters are of another tree"):
        jp.adapters.merge(other, adapters, {"dense": MASK["dense"]})
    wider = {**PARAMS, "dense": {"kernel": normal(10, 8)}}
    with pytest.raises(ValueError, match=r"adapter of 'dense/kernel' is for shape \(10, 7\)"):
        jp.adapters.merge(wider, adapters, jp.masks.dense(wider))
    with pytest.raises(TypeError, match=r"got dict\. The order is"):
        jp.adapters.merge(PARAMS, MASK, adapters)
    with pytest.raises(ValueError, match="adapters"):
        jp.adapters.merge(PARAMS, jax.tree.map(lambda x: x / 0, adapters), MASK)
    with pytest.raises(TypeError):
        make(PARAMS, PARAMS)
