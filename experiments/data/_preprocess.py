"""What happens to an image on the host between decoding and batching."""

import dataclasses
from collections.abc import Callable

import numpy as np

Preprocess = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(uint8 image [h, w, c], generator of this example's random numbers) -> uint8 image [h', w', c].

All its results must have one shape. The generator depends on (seed, step, row) alone; what is not
random ignores it. Worker processes receive it pickled: a frozen dataclass or a plain function.
"""


@dataclasses.dataclass(frozen=True)
class PadCropFlip:
    """The augmentation of the CIFAR literature, as `CropFlip`, but on the host.

    The zero padding is black, before normalisation. The draws are NumPy's, not those of
    `crop_flip`: the distributions are the same, the streams are not.

    Attributes:
        pad: pixels of zero padding on each side before cropping back to the original size.
        flip: whether half the images are mirrored left to right.
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        """Refuse a negative padding."""
        if self.pad < 0:
            raise ValueError(f"pad={self.pad} must be zero or more pixels")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crop at a random place of the padded image, then mirror with probability 1/2."""
        height, width, channels = image.shape
        # np.pad does the same in four times the time, which for small images is a tenth of it all.
        shape = (height + 2 * self.pad, width + 2 * self.pad, channels)
        padded = np.zeros(shape, image.dtype)
        padded[self.pad : self.pad + height, self.pad : self.pad + width] = image
        row, column = rng.integers(0, 2 * self.pad + 1, size=2)
        crop = padded[row : row + height, column : column + width]
        return crop[:, ::-1] if self.flip and rng.random() < 0.5 else crop
