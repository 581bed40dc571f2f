"""Wanda: weights times given norms; the norms themselves are tested with `input_norms`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_by_hand(dtype):
    params = {"w": jnp.array([[-2, 1], [3, 0]], dtype), "b": jnp.zeros(2)}
    scores = jp.scores.wanda(params, {"w": jnp.array([[10.0], [0.5]]), "b": None})
    assert scores["b"] is None
    assert scores["w"].dtype == jnp.float32
    assert scores["w"].tolist() == [[20, 10], [1.5, 0]]
    compiled = jax.jit(jp.scores.wanda)(params, {"w": jnp.ones((2, 2)), "b": None})
    np.testing.assert_array_equal(compiled["w"], [[2, 1], [3, 0]])


def test_bad_input():
    params = {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match=r"nothing for the prunable leaf 'w'\. No matrix product"):
        jp.scores.wanda(params, {"w": None})
    for shape in [(2,), (3, 1), (1, 2), (1, 2, 1)]:
        with pytest.raises(ValueError, match=r"at 'w' have shape .* does not broadcast"):
            jp.scores.wanda(params, {"w": jnp.ones(shape)})
    with pytest.raises(ValueError, match="it has 'v' where 'w' is"):
        jp.scores.wanda(params, {"v": jnp.ones((2, 1))})
    with pytest.raises(ValueError, match="input norms at 'w' hold NaN"):
        jp.scores.wanda(params, {"w": jnp.full((2, 1), jnp.nan)})


def _patches(x, window):
    """The inputs under each tap of a kernel, "VALID": [positions, *window, channels]."""
    views = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))
    return np.moveaxis(views, 3, -1).reshape(-1, *window, x.shape[-1])


def _by_hand(rows, inputs, sparsity):
    """What stays of ``[outputs, inputs]``: of each row all but the least |w| times norm."""
    scores = np.abs(rows) * np.linalg.norm(inputs, axis=0)[None]
    kept = np.ones(rows.shape, bool)
    for row, own in zip(scores, kept, strict=True):
        own[np.argsort(row)[: round(sparsity * len(row))]] = False
    return kept


DENSE = {"flax": "x,xo->o", "haiku": "x,xo->o", "equinox": "x,ox->o"}
NUMBERS = {
    "flax": ("NHWC", "HWIO", "NHWC"),
    "haiku": ("NHWC", "HWIO", "NHWC"),
    "equinox": ("NCHW", "OIHW", "NCHW"),
}
NAMES = {"flax": "kernel", "haiku": "w", "equinox": "weight"}


@pytest.mark.parametrize("layout", NAMES)
def test_masks_per_output_are_those_made_by_hand(layout):
    rng = np.random.default_rng(0)
    name, sparsity = NAMES[layout], 0.6
    image = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)  # NHWC
    vector = rng.normal(size=(9, 8)).astype(np.float32)
    conv, dense = (rng.normal(size=s).astype(np.float32) for s in [(4, 3, 2, 3), (5, 8)])
    # Both with the outputs first and the window before the channels; then as the layout has them.
    first = layout == "equinox"
    there = (0, 3, 1, 2) if first else (1, 2, 3, 0)
    params = {
        "conv": {name: jnp.asarray(conv.transpose(there))},
        "dense": {name: jnp.asarray(dense if first else dense.T)},
    }

    def apply(p, batch):
        image, vector = batch
        out = jax.lax.conv_general_dilated(
            image, p["conv"][name], (1, 1), "VALID", dimension_numbers=NUMBERS[layout]
        )
        return out, jax.vmap(lambda x: jnp.einsum(DENSE[layout], x, p["dense"][name]))(vector)

    seen = image.transpose(0, 3, 1, 2) if first else image
    norms = jp.scores.input_norms(apply, params, [(seen, vector)])
    allocation = jp.masks.per_output(layout=layout)
    mask = jp.masks.make(jp.scores.wanda(params, norms), sparsity, allocation=allocation)
    inputs = _patches(image, (3, 2)).reshape(-1, 18)
    want = _by_hand(conv.reshape(4, -1), inputs, sparsity).reshape(conv.shape).transpose(there)
    np.testing.assert_array_equal(mask["conv"][name], want)
    want = _by_hand(dense, vector, sparsity)
    np.testing.assert_array_equal(mask["dense"][name], want if first else want.T)
