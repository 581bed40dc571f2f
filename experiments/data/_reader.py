"""Read examples by index and preprocess them, each with random numbers of its own."""

import dataclasses

import numpy as np

from experiments.errors import UnreadableError

from ._examples import Examples
from ._preprocess import Preprocess


@dataclasses.dataclass(frozen=True)
class Reader:
    """What worker processes receive, pickled: examples on disk and what to make of them.

    Attributes:
        examples: the examples on disk.
        preprocess: done to each image; `None` for nothing.
        key: 128 bits that name the random numbers.
        image_shape: (height, width, channels) that every image must have; `None` for any.
    """

    examples: Examples
    preprocess: Preprocess | None
    key: tuple[int, int]
    image_shape: tuple[int, ...] | None = None

    def read(self, indices: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Read some examples.

        Args:
            indices: int [rows], which ones.
            position: of the first row among the rows of all steps; names the random numbers.

        Returns:
            (uint8 [rows, height, width, channels], int32 [rows]).

        Raises:
            ValueError: an example cannot be read, or its preprocessed image is unlike the others.
        """
        found = self.examples.read(indices)
        images = [
            self._one(image, int(index), position + row)
            for row, (index, (image, _)) in enumerate(zip(indices, found, strict=True))
        ]
        return np.stack(images), np.array([label for _, label in found], np.int32)

    def sized_by(self, index: int) -> tuple["Reader", tuple[int, ...]]:
        """This reader, wanting images as large as that of one example, and their shape."""
        images, _ = self.read(np.array([index]), 0)
        shape = images.shape[1:]
        return dataclasses.replace(self, image_shape=shape), shape

    def _one(self, image: np.ndarray, index: int, position: int) -> np.ndarray:
        what = "it"
        if self.preprocess is not None:
            # The counter's last word is the position: the streams of two rows never meet.
            bits = np.random.Philox(
                key=np.array(self.key, np.uint64), counter=np.array([0, 0, 0, position], np.uint64)
            )
            image = self.preprocess(image, np.random.Generator(bits))
            what = f"what {self.preprocess} made of it"
        where = f"{self.examples.name}, image {index} of split {self.examples.split!r}: {what}"
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
            raise UnreadableError(
                f"{where} is {getattr(image, 'dtype', type(image).__name__)} of shape"
                f" {np.shape(image)}; batches are made of uint8 [height, width, channels], which"
                " are normalised on the device"
            )
        if self.image_shape not in (None, image.shape):
            raise UnreadableError(
                f"{where} has shape {image.shape} and the first image {self.image_shape}; a batch"
                " needs images of one size: pass a preprocess that makes them so, such as"
                " RandomResizedCrop() to train and ResizeCentreCrop() to evaluate"
            )
        return image
