"""Layers that are stacked in a leaf are pruned like the same layers in leaves of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import masks, methods, parametrizations, transforms

STACKED = {"blocks/.*": 0, "experts/.*": (0, 2)}
STEPS = 8


def draw(seed, shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x[0] /= 8  # a layer whose weights are all small: as one leaf it would lose everything
    return x


def network(seed):
    return {
        "blocks": {"kernel": draw(seed, (3, 8, 12))},
        "experts": {"kernel": draw(seed + 1, (2, 8, 2, 4))},
        "head": {"kernel": draw(seed + 2, (12, 4))},
    }


def unstacked(tree):
    """A leaf a layer, in the same order. ``experts`` are ``[2, in, 2, out]``."""
    blocks, experts = tree["blocks"]["kernel"], tree["experts"]["kernel"]
    apart = {f"a{i}": x for i, x in enumerate(blocks)}
    apart |= {f"b{i}{j}": experts[i, :, j] for i in range(2) for j in range(2)}
    return {name: {"kernel": x} for name, x in (apart | {"c": tree["head"]["kernel"]}).items()}


PARAMS, TARGETS = network(0), network(10)
UNEVEN = jax.tree.map(
    np.asarray,
    masks.make(
        jp.scores.magnitude(TARGETS),
        0.5,
        allocation=masks.globally(max_sparsity=0.8),
        stacked=STACKED,
    ),
)
KEY = jax.random.key(0)


def follow_gradient(params, grads):
    del params
    return jax.tree.map(jnp.abs, grads)


SGD = optax.sgd(0.1, momentum=0.9)
# Each from (the mask to start from, what else) to a transformation.
TRANSFORMS = {
    "rigl": lambda start, **rules: transforms.rigl(
        SGD,
        None,
        key=KEY,
        within=start,
        total_steps=STEPS,
        interval=3,
        grow=follow_gradient,
        **rules,
    ),
    "static": lambda start, **rules: transforms.static(
        SGD, 0.6, scores=jp.scores.magnitude, allocation=masks.erk(), **rules
    ),
    "ac_dc": lambda start, **rules: transforms.ac_dc(
        SGD,
        0.6,
        total_steps=STEPS,
        warmup_steps=1,
        compressed_steps=2,
        final_steps=2,
        allocation=masks.uniform(),
        **rules,
    ),
    "soft": lambda start, **rules: transforms.soft(
        SGD, 0.4, every=3, total_steps=STEPS, where=jp.default_where, **rules
    ),
    "gsm": lambda start, **rules: optax.chain(
        transforms.gsm(0.6, allocation=masks.uniform(), **rules), SGD
    ),
    "lc, decay": lambda start, **rules: optax.chain(
        transforms.lc(0.6, 0.1, allocation=masks.erk(), **rules), SGD
    ),
    "lc, penalty": lambda start, **rules: optax.chain(
        transforms.lc(0.6, mu=0.5, interval=3, allocation=masks.uniform(), **rules), SGD
    ),
    "gmp": lambda start, **rules: transforms.gmp(
        SGD, 0.6, total_steps=STEPS, interval=2, allocation=masks.uniform(), **rules
    ),
}
PARAMETRIZATIONS = {
    "dnw": functools.partial(parametrizations.dnw, 0.6, allocation=masks.uniform()),
    "dpf": functools.partial(
        parametrizations.dpf,
        0.6,
        total_steps=STEPS,
        interval=2,
        refresh=2,
        allocation=masks.uniform(),
    ),
    "gmp_recover": functools.partial(
        parametrizations.gmp_recover, 0.6, total_steps=STEPS, interval=2, allocation=masks.erk()
    ),
    "sr_ste": functools.partial(parametrizations.sr_ste, masks.nm(2, 4, axis=0)),
    "str_": functools.partial(parametrizations.str_, initial=-3.0),
    "dst": functools.partial(parametrizations.dst, 1e-2, reset_at=0.3),
    "cs": functools.partial(parametrizations.cs, total_steps=STEPS, initial=0.5),
}


def loss(params, targets):
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(targets), strict=True)
    return sum(jnp.sum((w - t) ** 2) for w, t in leaves) / 2


def train(tx, params, targets):
    """The parameters, and the mask if there is one, after each step."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, targets), state, params)
        params = optax.apply_updates(params, updates)
        mask = transforms.get_mask(state) if transforms.has_mask(state) else None
        return (params, state), (params, mask)

    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS))(
        (params, tx.init(params))
    )[1]


def at(tree, t):
    return jax.tree.map(lambda x: np.asarray(x)[t], tree)


def check_close(one, other):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)


def check_same(stacked, apart):
    for t in range(STEPS):
        check_close(unstacked(at(stacked, t)), at(apart, t))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name):
    here = train(TRANSFORMS[name](UNEVEN, stacked=STACKED), PARAMS, TARGETS)
    apart = train(TRANSFORMS[name](unstacked(UNEVEN)), unstacked(PARAMS), unstacked(TARGETS))
    check_same(here[0], apart[0])
    if here[1] is not None:
        check_same(here[1], apart[1])
        counts = [x[-1].sum() for x in map(np.asarray, jax.tree.leaves(apart[1]))]
        assert min(counts) > 0
    whole = train(TRANSFORMS[name](UNEVEN), PARAMS, TARGETS)
    with pytest.raises(AssertionError):  # a leaf that counts as one layer is another method
        check_same(whole[0], apart[0])


@pytest.mark.parametrize("by_sign", [False, True])
def test_set_keeps_the_counts_of_each_layer(by_sign):
    tx = transforms.set_(
        SGD,
        None,
        key=KEY,
        within=UNEVEN,
        total_steps=STEPS,
        interval=2,
        by_sign=by_sign,
        stacked=STACKED,
    )
    _, mask = train(tx, PARAMS, TARGETS)
    first = [int(x.sum()) for x in jax.tree.leaves(unstacked(UNEVEN))]
    assert len(set(first[:3])) > 1
    moved = 0
    for t in range(STEPS):
        now = unstacked(at(mask, t))
        assert [int(x.sum()) for x in jax.tree.leaves(now)] == first
        moved += sum(
            int((a & ~b).sum())
            for a, b in zip(jax.tree.leaves(now), jax.tree.leaves(unstacked(UNEVEN)), strict=True)
        )
    assert moved


def test_random_masks_have_the_counts_of_each_layer():
    expected = masks.leaf_counts(unstacked(PARAMS), 0.6, allocation=masks.erk()).removed
    for tx in (
        transforms.rigl(SGD, 0.6, key=KEY, total_steps=STEPS, interval=3, stacked=STACKED),
        transforms.set_(SGD, 0.6, key=KEY, total_steps=STEPS, interval=3, stacked=STACKED),
        transforms.static(SGD, 0.6, key=KEY, stacked=STACKED),
    ):
        mask = jax.tree.map(np.asarray, transforms.get_mask(tx.init(PARAMS)))
        assert masks.counts_in(mask, stacked=STACKED).removed == expected
        apart = jax.tree.leaves(unstacked(mask))
        assert [int((~x).sum()) for x in apart] == list(expected)


def forward(p, trainable, state, targets):
    params, state = p.apply(trainable, state)
    return loss(params, targets) + p.penalty(trainable, state), (params, state)


def train_through(p, params, targets):
    trainable, state = p.init(params)
    tx = optax.sgd(0.05)

    def step(carry, _):
        trainable, opt_state, state = carry
        grads, (shown, state) = jax.grad(forward, argnums=1, has_aux=True)(
            p, trainable, state, targets
        )
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(trainable, updates), opt_state, state), shown

    carry, shown = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS))(
        (trainable, tx.init(trainable), state)
    )
    return shown, p.finalize(carry[0], carry[2])


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_parametrizations(name):
    make = PARAMETRIZATIONS[name]
    here, (params, mask) = train_through(make(stacked=STACKED), PARAMS, TARGETS)
    apart, (other, other_mask) = train_through(make(), unstacked(PARAMS), unstacked(TARGETS))
    check_same(here, apart)
    check_close((unstacked(params), unstacked(mask)), (other, other_mask))
    if name not in ("sr_ste", "cs"):  # groups and gates know no layers
        whole, _ = train_through(make(), PARAMS, TARGETS)
        with pytest.raises(AssertionError):
            check_same(whole, apart)


def test_a_layer_that_is_cut_off_is_named():
    p = parametrizations.cs(total_steps=STEPS, stacked=STACKED)
    trainable, state = p.init(PARAMS)
    gates = jax.tree.map(lambda m: m + 1.0, trainable.gates)
    gates["blocks"]["kernel"] = gates["blocks"]["kernel"].at[1].set(-1.0)
    with pytest.warns(UserWarning, match=r"no weight is left of 'blocks/kernel\[1\]'"):
        p.finalize(trainable._replace(gates=gates), state)


def test_thresholds_have_one_number_a_layer():
    trainable, _ = parametrizations.str_(stacked=STACKED).init(PARAMS)
    shapes = [x.shape for x in jax.tree.leaves(trainable.thresholds)]
    assert shapes == [(3,), (2, 2), ()]
    trainable, _ = parametrizations.dst(stacked=STACKED).init(PARAMS)
    shapes = [x.shape for x in jax.tree.leaves(trainable.thresholds)]
    assert shapes == [(3, 12), (2, 2, 4), (4,)]
    first = parametrizations.dst(stacked=STACKED, axis=0)  # of a layer, not of the leaf
    shapes = [x.shape for x in jax.tree.leaves(first.init(PARAMS)[0].thresholds)]
    assert shapes == [(3, 8), (2, 8, 2), (12,)]


def test_filters_of_stacked_convolutions():
    params = {
        "conv": {"kernel": draw(0, (2, 3, 3, 4, 8))},
        "dense": {"kernel": draw(1, (2, 8, 8))},  # of rank 3, but a layer has 2 axes
    }
    tx = transforms.soft(SGD, 0.5, every=2, total_steps=STEPS, stacked={".*": 0})
    mask = transforms.get_mask(tx.init(params))
    assert mask["dense"]["kernel"] is None
    np.testing.assert_array_equal(mask["conv"]["kernel"], True)


def test_recipes_hand_it_on():
    for name in ("gsm", "lc"):
        method = methods.METHODS[name](0.6, allocation=masks.uniform(), stacked=STACKED)
        assert method.final_prune is not None
        mask = method.final_prune(PARAMS)
        expected = masks.leaf_counts(unstacked(PARAMS), 0.6, allocation=masks.uniform()).removed
        assert masks.counts_in(jax.tree.map(np.asarray, mask), stacked=STACKED).removed == expected


def test_groups_are_counted_layer_by_layer():
    pattern = masks.channels(-1)
    rules = {"pattern": pattern, "stacked": STACKED}
    mask = masks.make(jp.scores.magnitude(PARAMS), 0.5, allocation=masks.uniform(), **rules)
    masks.check(mask, pattern, stacked=STACKED)
    here = masks.counts_in(jax.tree.map(np.asarray, mask), pattern=pattern, stacked=STACKED)
    apart = masks.counts_in(unstacked(jax.tree.map(np.asarray, mask)), pattern=pattern)
    assert here == apart
    with pytest.raises(ValueError, match=r"'blocks/kernel' is not in groups of 3x8"):
        masks.check(mask, pattern)
    broken = jax.tree.map(np.array, mask)
    broken["blocks"]["kernel"][2, 0, :] ^= True
    with pytest.raises(ValueError, match=r"'blocks/kernel\[2\]' is not in groups of 8"):
        masks.check(broken, pattern, stacked=STACKED)
