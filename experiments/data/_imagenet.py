"""ImageNet's usual preprocessing: random-resized crops for training, a centre crop to evaluate."""

import dataclasses
import math

import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of each channel in [0, 1] units, as fb.resnet.torch and torchvision publish it."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of each channel, same units and sources."""

# torchvision's. In a 4:3 photograph one draw in four does not fit, and so all ten fail about once
# in a million.
_TRIES = 10


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Crop a random rectangle, resize it to a square, mirror it with probability 1/2.

    The rectangle has a uniform share of the image's area and a log-uniform aspect ratio. If ten
    draws do not fit in the image, the largest central rectangle of allowed aspect is taken.

    Attributes:
        size: pixels of each side of the result.
        area: least and largest share of the image's area, in (0, 1].
        aspect: least and largest width / height.
        flip: whether half the images are mirrored left to right.

    References:
        Szegedy et al. (2015), "Going deeper with convolutions", CVPR, section 6: shares of 8 % to
        100 % and aspects of 3/4 to 4/3. Ten tries and the fallback: torchvision's
        `transforms.RandomResizedCrop`. Size 224 and the flip: Krizhevsky et al. (2012), NeurIPS.
    """

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        """Refuse empty ranges."""
        _check_size(self.size)
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area={self.area} must be ascending shares in (0, 1]")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect={self.aspect} must be ascending positive width / height")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Make uint8 [size, size, channels] of uint8 [height, width, channels]."""
        top, left, height, width = self.rectangle(image.shape[0], image.shape[1], rng)
        # Cropped first: with Pillow's `box`, the filter would see pixels beyond the rectangle.
        result = _resize(image[top : top + height, left : left + width], self.size, self.size)
        return result[:, ::-1] if self.flip and rng.random() < 0.5 else result

    def rectangle(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width) in an image of the given size, in pixels."""
        low, high = self.aspect
        for _ in range(_TRIES):
            target = height * width * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < w <= width and 0 < h <= height:
                return (
                    int(rng.integers(0, height - h + 1)),
                    int(rng.integers(0, width - w + 1)),
                    h,
                    w,
                )
        h, w = height, width
        if width < low * height:
            h = round(width / low)
        elif width > high * height:
            w = round(height * high)
        h, w = max(h, 1), max(w, 1)
        return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class ResizeCentreCrop:
    """Resize the shorter side, keep the aspect, and take the centre.

    Attributes:
        size: pixels of each side of the result.
        resize: pixels of the shorter side before the crop, at least `size`.

    References:
        Krizhevsky et al. (2012), "ImageNet classification with deep convolutional neural
        networks", NeurIPS, section 2 (shorter side 256) and 4.1 (crops of 224).
    """

    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        """Refuse a crop that is larger than the resized image."""
        _check_size(self.size)
        if self.resize < self.size:
            raise ValueError(
                f"resize={self.resize} is smaller than size={self.size}: nothing to crop from;"
                " resize is the shorter side before the crop"
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Make uint8 [size, size, channels] of uint8 [height, width, channels]."""
        del rng  # nothing is random here
        height, width = image.shape[:2]
        # The longer side is cut off, not rounded, and the crop's corner is rounded half to even:
        # torchvision's `Resize` and `CenterCrop`, with which published accuracies were measured.
        short = min(height, width)
        height, width = (int(self.resize * side / short) for side in (height, width))
        image = _resize(image, height, width)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return image[top : top + self.size, left : left + self.size]


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size={size} must be at least 1 pixel")


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, with the filter widened when shrinking: Pillow's, and so torchvision's."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("resizing images needs Pillow: pip install pillow") from error
    if image.shape[-1] not in (1, 3):
        # Pillow takes a fourth channel for opacity and weights the others by it.
        raise ValueError(f"image of shape {image.shape} cannot be resized; give it 1 or 3 channels")
    grey = image.shape[-1] == 1  # Pillow has no image with one explicit channel
    pixels = Image.fromarray(np.ascontiguousarray(image[..., 0] if grey else image))
    resized = np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR))
    return resized[..., None] if grey else resized
