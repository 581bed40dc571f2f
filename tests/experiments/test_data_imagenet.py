"""Host preprocessing: crops, resizes and flips against slow NumPy versions."""

import collections
import math

import numpy as np
import pytest

from experiments.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PadCropFlip,
    RandomResizedCrop,
    ResizeCentreCrop,
)


def make_image(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def slow_weights(size, new):
    """[new, size]: each output pixel's triangle of input pixels, as wide as one output pixel."""
    scale = size / new
    radius = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centres[:, None]) / radius
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(1, keepdims=True)


def slow_resize(image, height, width):
    rows, columns = slow_weights(image.shape[0], height), slow_weights(image.shape[1], width)
    taller = np.tensordot(rows, image.astype(np.float64), (1, 0))
    return np.tensordot(columns, taller, (1, 1)).swapaxes(0, 1)


class Draws:
    """A generator whose draws are written down."""

    def __init__(self, uniform=(), integers=(), random=()):
        self._left = {
            "uniform": collections.deque(uniform),
            "integers": collections.deque(integers),
            "random": collections.deque(random),
        }

    def uniform(self, low, high):
        return low + (high - low) * self._left["uniform"].popleft()

    def integers(self, low, high):
        value = self._left["integers"].popleft()
        assert low <= value < high
        return value

    def random(self):
        return self._left["random"].popleft()


def test_a_crop_is_the_rectangle_that_was_drawn():
    image = make_image(60, 80)
    # Half the range of areas, 0.54, and of logarithms of aspects, 1: a square of side 51.
    side = round(math.sqrt(60 * 80 * 0.54))
    draws = {"uniform": (0.5, 0.5), "integers": (7, 20)}
    crop = RandomResizedCrop(32)
    expected = slow_resize(image[7 : 7 + side, 20 : 20 + side], 32, 32)
    for flip, wanted in ((0.7, expected), (0.2, expected[:, ::-1])):
        got = crop(image, Draws(**draws, random=(flip,)))
        assert (got.dtype, got.shape) == (np.uint8, (32, 32, 3))
        np.testing.assert_allclose(got.astype(float), wanted, atol=1.01)
    # An aspect is width over height, and corners may lie at the far end.
    w, h = round(math.sqrt(4800 * 0.54 * 4 / 3)), round(math.sqrt(4800 * 0.54 * 3 / 4))
    draws = Draws(uniform=(0.5, 1.0), integers=(60 - h, 80 - w))
    assert crop.rectangle(60, 80, draws) == (60 - h, 80 - w, h, w)


@pytest.mark.parametrize(
    ("size", "rectangle"),
    [
        ((10, 100), (0, 43, 10, 13)),  # too wide: 4/3 of the height
        ((100, 10), (43, 0, 13, 10)),  # too high: the width over 3/4
        ((12, 12), (0, 0, 12, 12)),
        ((2, 30), (0, 13, 2, 3)),
    ],
)
def test_after_ten_misfits_the_centre_is_taken(size, rectangle):
    class Whole(Draws):
        def uniform(self, low, high):
            self.calls = getattr(self, "calls", 0) + 1
            return high

    draws = Whole()
    # The whole area at aspect 4/3 or 3/4 fits in none of these.
    assert RandomResizedCrop(8).rectangle(*size, draws) == rectangle
    assert draws.calls == 20


def test_crops_have_the_published_distribution():
    crop, rng = RandomResizedCrop(), np.random.default_rng(0)
    drawn = np.array([crop.rectangle(1000, 1000, rng) for _ in range(4000)])
    top, left, height, width = drawn.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1000).all()
    assert (left + width <= 1000).all()
    share, aspect = height * width / 1e6, width / height
    assert 0.079 < share.min() < 0.09
    assert 0.95 < share.max() <= 1
    assert 0.745 < aspect.min() < 0.77
    assert 1.3 < aspect.max() < 1.34
    assert abs(np.log(aspect).mean()) < 5 * 0.17 / math.sqrt(4000)
    # Of 0.08 to 0.7 nearly all fit, and so these shares are uniform.
    small = share[share < 0.7]
    counts = np.histogram(small, bins=10, range=(0.08, 0.7))[0]
    expected = len(small) / 10
    assert float(np.sum((counts - expected) ** 2 / expected)) < 9 + 5 * math.sqrt(18)


def test_the_same_generator_gives_the_same_crop():
    image = make_image(40, 30)
    for preprocess in (RandomResizedCrop(16), PadCropFlip(4)):
        results = [preprocess(image, np.random.default_rng(s)).tobytes() for s in (0, 0, 1, 2)]
        assert results[0] == results[1]
        assert len(set(results)) == 3


@pytest.mark.parametrize(
    ("size", "resized"),
    [((300, 400), (256, 341)), ((500, 375), (341, 256)), ((100, 100), (256, 256))],
)
def test_evaluation_resizes_and_takes_the_centre(size, resized):
    image = make_image(*size)
    height, width = resized
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    expected = slow_resize(image, height, width)[top : top + 224, left : left + 224]
    got = ResizeCentreCrop()(image)
    assert (got.dtype, got.shape) == (np.uint8, (224, 224, 3))
    np.testing.assert_allclose(got.astype(float), expected, atol=1.01)


def test_no_resize_is_exact():
    image = make_image(256, 301)
    # (301 - 224) / 2 is 38.5, rounded half to even.
    np.testing.assert_array_equal(ResizeCentreCrop()(image), image[16:240, 38:262])
    np.testing.assert_array_equal(
        ResizeCentreCrop(5, 5)(make_image(5, 5), np.random.default_rng(0)), make_image(5, 5)
    )


def test_grey_images_keep_their_one_channel():
    image = make_image(20, 30, 1)
    expected = slow_resize(image, 16, 24)[2:14, 6:18]
    np.testing.assert_allclose(ResizeCentreCrop(12, 16)(image).astype(float), expected, atol=1.01)
    assert RandomResizedCrop(7)(image, np.random.default_rng(0)).shape == (7, 7, 1)
    with pytest.raises(ValueError, match=r"image of shape \(20, 30, 4\).*1 or 3 channels"):
        ResizeCentreCrop(12, 16)(make_image(20, 30, 4))


@pytest.mark.parametrize("preprocess", [PadCropFlip(4), PadCropFlip(1, flip=False), PadCropFlip(0)])
def test_pad_crop_flip_takes_every_place_evenly(preprocess):
    image, pad = make_image(7, 6), preprocess.pad
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    places = {}
    for row in range(2 * pad + 1):
        for column in range(2 * pad + 1):
            crop = padded[row : row + 7, column : column + 6]
            places[crop.tobytes()] = (row, column, False)
            if preprocess.flip:
                places[crop[:, ::-1].tobytes()] = (row, column, True)
    rng, per_place = np.random.default_rng(0), 20
    found = collections.Counter(
        places[preprocess(image, rng).tobytes()] for _ in range(per_place * len(places))
    )
    assert len(found) == len(places)
    counts = np.array(list(found.values()))
    chi_square = float(np.sum((counts - per_place) ** 2 / per_place))
    assert chi_square < len(places) - 1 + 5 * math.sqrt(2 * len(places))


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="size=0 must be at least 1 pixel"):
        RandomResizedCrop(0)
    with pytest.raises(ValueError, match=r"area=\(0, 1\) must be ascending shares"):
        RandomResizedCrop(area=(0, 1))
    with pytest.raises(ValueError, match=r"area=\(0\.5, 1\.5\) must be"):
        RandomResizedCrop(area=(0.5, 1.5))
    with pytest.raises(ValueError, match=r"aspect=\(2, 1\) must be ascending positive"):
        RandomResizedCrop(aspect=(2, 1))
    with pytest.raises(ValueError, match="resize=200 is smaller than size=224"):
        ResizeCentreCrop(resize=200)
    with pytest.raises(ValueError, match="size=-1 must be"):
        ResizeCentreCrop(-1)
    with pytest.raises(ValueError, match="pad=-1 must be"):
        PadCropFlip(-1)


def test_published_statistics():
    assert len(IMAGENET_MEAN) == len(IMAGENET_STD) == 3
    assert all(0.2 < value < 0.5 for value in (*IMAGENET_MEAN, *IMAGENET_STD))
