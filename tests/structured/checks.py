"""What must hold of any shrunk network."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from tests.quick import OPTIONS


def normal(*shape, seed=1):
    """Normal random numbers. From NumPy: no program is compiled for their shape."""
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def random_params(params, seed=0):
    """Random values of the leaves' shapes, so that no norm or bias is at its neutral start."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):  # counters, keys
            abstract = isinstance(x, jax.ShapeDtypeStruct)
            return jax.device_put(np.zeros(x.shape, x.dtype)) if abstract else x
        name = jax.tree_util.keystr(path)
        fan_in = max(int(np.prod(x.shape[:-1])), 1) if len(x.shape) > 1 else 1
        value = rng.normal(size=x.shape) / np.sqrt(fan_in)
        if len(x.shape) == 1:  # biases and scales: not so large that most channels are constant
            value = value / 4 + ("scale" in name)
        if "var" in name:  # variances
            value = 0.5 + np.abs(value)
        return jax.device_put(value.astype(x.dtype))

    return jax.tree_util.tree_map_with_path(leaf, params)


def random_kept(groups, fraction, seed=0):
    """Removes a fraction of every group at random; something stays along every axis."""
    rng = np.random.default_rng(seed)
    kept = []
    for group in groups:
        gone = min(round(fraction * group.size), group.size - 1)
        stays = np.ones(group.size, bool)
        stays[rng.permutation(group.size)[:gone]] = False
        kept.append(stays)
    return with_something_left(groups, kept)


def with_something_left(groups, kept):
    """Takes units back in groups and on axes of which nothing would be left."""
    for stays in kept:
        stays[0] |= not stays.any()
    while empty := _emptied(groups, kept):
        for group, stays in zip(groups, kept, strict=True):
            for m in group.members:
                if (m.path, m.axis) in empty:
                    # The first position is whole then, whatever units it belongs to.
                    stays[m.owners[m.owners >= 0][0]] = True
    return kept


def _emptied(groups, kept):
    alive = {}
    for group, stays in zip(groups, kept, strict=True):
        for m in group.members:
            ours = np.append(stays, True)[m.owners]
            alive[m.path, m.axis] = alive.get((m.path, m.axis), True) & ours
    return {key for key, stays in alive.items() if not stays.any()}


def prunable_fraction(groups):
    """Of all entries of axes of matrices and kernels that products make, those in a group."""
    made = {(m.path, m.axis): (m.owners >= 0).sum() for g in groups for m in g.role("out")}
    return {path: int(n) for (path, _), n in made.items()}


def close(a, b, rtol=1e-5):
    """Equal to float round-off, measured against the largest entry of the tree."""
    pairs = list(zip(_leaves(a), _leaves(b), strict=True))
    for x, y in pairs:
        assert x.shape == y.shape
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs]
    largest = max((np.abs(x).max(initial=0) for x, _ in pairs), default=0)
    assert largest > 0
    for x, y in pairs:
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * largest)


def _leaves(tree):
    keys = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [jax.random.key_data(x) if keys(x) else x for x in jax.tree.leaves(tree)]


def check_shrunk(
    apply, params, inputs, fraction, *, groups=None, gradients=True, export=False, other=None,
    rtol=1e-5,
):  # fmt: skip
    """Masked = shrunk: results, gradients, another batch size, export. Returns the small tree."""
    if groups is None:
        groups = jp.structured.channel_groups(apply, params, *inputs)
    masks = jp.structured.masks(groups, random_kept(groups, fraction))
    masked = jp.apply_mask(params, masks)
    small_apply, small = jp.structured.shrink(apply, params, masks, *inputs)

    def cut(tree):
        return jp.structured.cut(tree, groups, masks)

    def compare(inputs, differentiate):
        @quick
        def both(masked, small, inputs):
            if differentiate:
                return gradient_of(apply, masked, inputs), gradient_of(small_apply, small, inputs)
            return (None, apply(masked, *inputs)), (None, small_apply(small, *inputs))

        (slopes, results), (small_slopes, small_results) = both(masked, small, inputs)
        close(cut(results), small_results, rtol)
        if differentiate:
            close(cut(slopes), small_slopes, 10 * rtol)
        return small_results

    results = compare(inputs, gradients)
    if other is not None:
        compare(other, False)
    if export:
        exported = jax.export.export(jax.jit(small_apply))(small, *inputs)
        again = jax.export.deserialize(exported.serialize())
        close(results, quick(again.call)(small, *inputs), rtol)
    return small


def quick(f):
    """Compiled with as little effort as possible: compiling is what these tests wait for."""
    return jax.jit(f, compiler_options=OPTIONS)


def gradient_of(apply, params, inputs):
    """Of a function of all floating results, by all floating parameters; and the results."""
    moving, rest = split_floating(params)

    def loss(moving):
        out = apply(join(moving, rest), *inputs)
        # A weight that does not depend on how many entries there are: state shrinks.
        total = sum(
            jnp.sum(jnp.sin(x.astype(jnp.float32)))
            for path, x in jax.tree_util.tree_leaves_with_path(out)
            if jnp.issubdtype(x.dtype, jnp.floating) and len(path) < 2
        )
        return total, out

    return jax.grad(loss, has_aux=True)(moving)


def split_floating(params):
    """The floating leaves, and the others, each with `None` in place of the rest."""
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    moving = jax.tree.map(lambda x: x if floating(x) else None, params)
    return moving, jax.tree.map(lambda x: None if floating(x) else x, params)


def join(moving, rest):
    """The inverse of `split_floating`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, moving, rest, is_leaf=lambda x: x is None
    )
