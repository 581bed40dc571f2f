"""Batches: order, crops, flips and normalisation against slow NumPy versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import (
    CropFlip,
    crop_flip,
    make_batch_at,
    normalise,
    permuted,
    steps_per_epoch,
)
from experiments.data._augment import crop_flip_draws

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def make_images(n, size=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def make_numbered(n):
    """Each label is its index, and so is the first pixel."""
    image = make_images(n)
    return {"image": image, "label": np.arange(n, dtype=np.int32)}


def make(split, **options):
    defaults = {"batch_size": 4, "seed": 0, "mean": MEAN, "std": STD, "augment": None}
    return make_batch_at(split, **{**defaults, **options})


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 16, 17, 97, 256, 1000, 1293, 45_000])
def test_permutation_is_a_bijection(n):
    image = np.asarray(permuted(jnp.arange(n), n, jax.random.key(n)))
    assert image.dtype == np.int32
    np.testing.assert_array_equal(np.sort(image), np.arange(n))
    if n > 16:
        assert np.mean(image == np.arange(n)) < 0.1


@pytest.mark.parametrize("n", [2**31 - 1, 2**31 - 2, 2**30 + 1])
def test_permutation_stays_in_range_near_the_largest_n(n):
    index = jnp.concatenate([jnp.arange(1000), n - 1 - jnp.arange(1000)])
    image = np.asarray(permuted(index, n, jax.random.key(0)))
    assert image.min() >= 0
    assert image.max() < n
    assert len(np.unique(image)) == 2000


@pytest.mark.parametrize("n", [0, -1, 2**31])
def test_permutation_refuses(n):
    with pytest.raises(ValueError, match=rf"n={n} is outside \[1, 2\*\*31\)"):
        permuted(jnp.arange(2), n, jax.random.key(0))


def test_permutations_are_roughly_uniform():
    n, keys = 6, jax.random.split(jax.random.key(0), 14_400)
    images = np.asarray(jax.vmap(lambda k: permuted(jnp.arange(n), n, k))(keys))
    codes = images @ (n ** np.arange(n))
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 720
    # Chi-square with 719 degrees of freedom: mean 719, standard deviation 38.
    assert abs(float(np.sum((counts - 20) ** 2 / 20)) - 719) < 5 * 38


def test_permutation_leaves_no_correlation_between_neighbours():
    n = 50_000
    image = np.asarray(permuted(jnp.arange(n), n, jax.random.key(3))).astype(np.float64)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(image, np.arange(n))[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("n", [12, 13, 15])
def test_every_example_at_most_once_per_epoch(n):
    batch_at = make(make_numbered(n))
    steps = steps_per_epoch(n, 4)
    assert steps == 3
    epochs = [
        np.concatenate([batch_at(e * steps + s)["label"] for s in range(steps)]) for e in range(4)
    ]
    for epoch in epochs:
        assert len(np.unique(epoch)) == 12
        assert epoch.min() >= 0
        assert epoch.max() < n
    assert len({tuple(epoch) for epoch in epochs}) == 4
    if n > 12:
        dropped = [tuple(np.setdiff1d(np.arange(n), epoch)) for epoch in epochs]
        assert len(set(dropped)) > 1


@pytest.mark.parametrize("augment", [None, CropFlip(2)])
def test_same_seed_and_step_same_batch_compiled_or_not(augment):
    split = make_numbered(21)
    compiled = jax.jit(lambda batch_at, step: batch_at(step))
    for step in (4, 123_456_789):
        eager = make(split, augment=augment)(step)
        again = make(split, augment=augment)(np.int64(step))
        traced = compiled(make(split, augment=augment), step)
        for name in ("image", "label"):
            np.testing.assert_array_equal(eager[name], again[name])
            np.testing.assert_array_equal(eager[name], traced[name])
    assert not np.array_equal(make(split)(0)["label"], make(split, seed=1)(0)["label"])


def test_data_are_arguments_and_seeds_share_one_compilation():
    compiled = jax.jit(lambda batch_at, step: batch_at(step))
    for seed in range(3):
        for step in range(3):
            compiled(make(make_numbered(21), seed=seed, augment=CropFlip(1)), step)
    assert compiled._cache_size() == 1
    closed = jax.make_jaxpr(lambda batch_at, step: batch_at(step))(make(make_numbered(21)), 0)
    assert all(np.size(const) < 21 for const in closed.consts)


def test_batches_are_usable_in_a_scan():
    batch_at = make(make_numbered(20))
    _, labels = jax.lax.scan(lambda c, s: (c, batch_at(s)["label"]), 0, jnp.arange(5))
    np.testing.assert_array_equal(np.sort(labels.ravel()), np.arange(20))


@pytest.mark.parametrize("augment", [CropFlip(4), CropFlip(1, flip=False), CropFlip(0)])
def test_crop_flip_against_numpy(augment):
    image, key = make_images(32), jax.random.key(5)
    got = np.asarray(crop_flip(jnp.asarray(image), key, augment))
    offsets, flips = map(np.asarray, crop_flip_draws(key, 32, augment))
    expected, p = np.zeros_like(image), augment.pad
    for b in range(32):
        for i in range(8):
            for j in range(8):
                row = i + offsets[b, 0] - p
                column = (7 - j if augment.flip and flips[b] else j) + offsets[b, 1] - p
                if 0 <= row < 8 and 0 <= column < 8:
                    expected[b, i, j] = image[b, row, column]
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_crops_and_flips_take_all_values_evenly():
    offsets, flips = crop_flip_draws(jax.random.key(0), 8100, CropFlip(4))
    counts = np.bincount(np.asarray(offsets[:, 0] * 9 + offsets[:, 1]), minlength=81)
    assert len(counts) == 81
    assert abs(float(np.sum((counts - 100) ** 2 / 100)) - 80) < 5 * 12.6
    assert abs(float(flips.mean()) - 0.5) < 5 * 0.5 / 90


def test_augmentation_differs_between_examples_steps_and_seeds():
    white = {"image": np.full((8, 8, 8, 3), 255, np.uint8), "label": np.zeros(8, np.int32)}
    batches = [
        np.asarray(make(white, batch_size=8, seed=seed, augment=CropFlip(4))(step)["image"])
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({batch.tobytes() for batch in batches}) == 3
    assert len({one.tobytes() for one in batches[0]}) > 1


def test_padding_is_black_before_normalisation():
    white = {"image": np.full((8, 8, 8, 3), 255, np.uint8), "label": np.zeros(8, np.int32)}
    pixels = np.asarray(make(white, batch_size=8, augment=CropFlip(4))(0)["image"])
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    mean, std = np.array(MEAN), np.array(STD)
    np.testing.assert_allclose(colours, np.stack([-mean / std, (1 - mean) / std]), rtol=1e-6)


def test_normalise_against_numpy():
    image = make_images(5)
    expected = (image.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    got = normalise(image, MEAN, STD)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(got[0], normalise(image[0], MEAN, STD))
    half = normalise(image, MEAN, STD, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, got.astype(jnp.bfloat16))


def test_batches_are_normalised_images_of_their_labels():
    split = make_numbered(9)
    for dtype in (jnp.float32, jnp.bfloat16):
        batch = make(split, dtype=dtype)(1)
        assert batch["image"].dtype == dtype
        assert batch["label"].dtype == jnp.int32
        expected = normalise(split["image"][np.asarray(batch["label"])], MEAN, STD, dtype)
        np.testing.assert_array_equal(batch["image"], expected)


def test_errors_give_value_and_repair():
    split = make_numbered(9)
    with pytest.raises(ValueError, match="batch_size=10 is larger than the 9 examples"):
        make(split, batch_size=10)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        steps_per_epoch(9, 0)
    with pytest.raises(ValueError, match=r"3 channels but mean=\(0\.5,\)"):
        make(split, mean=(0.5,))
    with pytest.raises(ValueError, match="must be positive"):
        make(split, std=(1, 0, 1))
    with pytest.raises(ValueError, match=r"9 images but labels of shape \(8,\)"):
        make({**split, "label": split["label"][:8]})
    with pytest.raises(TypeError, match=r"images are float32 of shape .* raw uint8"):
        make({**split, "image": split["image"].astype(np.float32)})
    with pytest.raises(TypeError, match="raw uint8 pixels, got float32"):
        normalise(jnp.zeros((2, 2, 3)), MEAN, STD)
    with pytest.raises(ValueError, match="pad=-1 must be"):
        CropFlip(-1)
