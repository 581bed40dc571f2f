"""What a data set is: three splits of uint8 images with labels, and how to feed them."""

import dataclasses
from typing import TypedDict

import numpy as np

from ._augment import CropFlip


class Split(TypedDict):
    """Images and their labels.

    Attributes:
        image: uint8 [n, height, width, channels].
        label: int32 [n], in [0, num_classes).
    """

    image: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An image-classification data set, whole in memory; its arrays are read-only.

    Attributes:
        name: the name it was loaded by.
        train: what is trained on (the validation images are not in it).
        validation: held out of the set's own training split, never augmented; may be empty.
        test: the set's own test split, the same for every seed.
        num_classes: number of classes.
        mean: mean of each channel, in units where a pixel lies in [0, 1].
        std: standard deviation of each channel, same units.
        augmentation: what is done to training images; `None` for nothing.
        version: of the set, such as "3.0.2"; `None` if it has none.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: CropFlip | None = None
    version: str | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image: (height, width, channels)."""
        return self.train["image"].shape[1:]


def make_split(image: np.ndarray, label: np.ndarray) -> Split:
    """Pack images and labels, and make them read-only: JAX on a CPU may alias the buffers."""
    image = np.ascontiguousarray(image, np.uint8)
    label = np.ascontiguousarray(label, np.int32)
    image.setflags(write=False)
    label.setflags(write=False)
    return Split(image=image, label=label)


def hold_out(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Split off `count` examples drawn by `seed`.

    Args:
        split: n examples.
        count: how many to hold out, in [0, n].
        seed: which ones.

    Returns:
        (the n - count others, the held-out ones), each in the original order.
    """
    n = len(split["label"])
    # RandomState on purpose: NumPy freezes its stream, so the same seed means the same split under
    # every NumPy release. Generator gives no such promise.
    order = np.random.RandomState(seed).permutation(n)
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    image, label = split["image"], split["label"]
    return make_split(image[kept], label[kept]), make_split(image[held], label[held])


def channel_statistics(image: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1] units.

    Computed from exact integer histograms, so the result depends neither on the order of the
    images nor on how NumPy sums. A constant channel gets standard deviation 1.

    Args:
        image: uint8 [n, height, width, channels].

    Returns:
        (means, standard deviations), one float per channel.
    """
    values = np.arange(256)
    means, stds = [], []
    for channel in range(image.shape[-1]):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        total = int(counts.sum())
        mean = int(counts @ values) / total
        variance = int(counts @ values**2) / total - mean**2
        means.append(mean / 255)
        stds.append(max(variance, 0.0) ** 0.5 / 255 or 1.0)
    return tuple(means), tuple(stds)
