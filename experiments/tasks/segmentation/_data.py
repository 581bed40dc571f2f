"""Images with a label for every pixel, in memory, and batches of them."""

import dataclasses
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.data import permuted

VOID = -1
"""The label of a pixel that does not count, whatever the set calls it."""

# Sets the draws of batches apart from what others draw by the same seed.
_STREAM = int.from_bytes(b"mask")


class Masks(TypedDict):
    """Images and their labels.

    Attributes:
      image: uint8 [n, height, width, 3].
      label: int8 or int16 [n, height, width], in [0, num_classes), or `VOID`.
    """

    image: np.ndarray
    label: np.ndarray


class Scenes(NamedTuple):
    """A segmentation set, whole in memory.

    Attributes:
      name: what it was loaded by.
      train: what is trained on.
      validation: never trained on.
      test: likewise.
      num_classes: number of classes, without void.
      mean: of each channel of the images of training, in units where a pixel lies in [0, 1].
      std: likewise.
      version: of the set; `None` if it has none.
    """

    name: str
    train: Masks
    validation: Masks
    test: Masks
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    version: str | None = None


def make_scenes(
    name: str,
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    void_class: int,
    version: str | None = None,
) -> Scenes:
    """Makes a set of images and masks.

    Args:
      name: of the set.
      splits: of "train", "validation" and "test": uint8 images [n, height, width, channels] and
        integer masks [n, height, width].
      void_class: the value of pixels in the masks that do not count.
      version: of the set, if it has one.

    Returns:
      The set; its classes are 0 to the largest label of training that is not void.

    Raises:
      ValueError: if there are no labels, or a split has a class that training has not.
    """
    train = splits["train"][1]
    counted = train[train != void_class]
    if not counted.size:
        raise ValueError(
            f"{name} has no pixel in training that counts: all are {void_class}, the void class. "
            "Name the right one with --void-class."
        )
    classes = int(counted.max()) + 1
    found: dict[str, Masks] = {}
    for split, (image, mask) in splits.items():
        label = mask.astype(np.int16)
        label[mask == void_class] = VOID
        if label.max(initial=VOID) >= classes:
            raise ValueError(
                f"{name}: the {split} split has the label {label.max()}, and training only 0 to "
                f"{classes - 1}. If it stands for pixels that do not count, pass --void-class "
                f"{label.max()}."
            )
        found[split] = Masks(image=np.ascontiguousarray(image, np.uint8), label=label)
    mean, std = data.channel_statistics(found["train"]["image"])
    return Scenes(
        name,
        found["train"],
        found["validation"],
        found["test"],
        num_classes=classes,
        mean=mean,
        std=std,
        version=version,
    )


def make_batch_at(
    split: Masks,
    *,
    batch_size: int,
    seed: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: Any = jnp.float32,
) -> jax.tree_util.Partial:
    """Builds ``batch_at(step)``, which makes the batch of a step from nothing but (seed, step).

    Each epoch has an order of its own, and mirrors half of its images left to right, with their
    labels. The examples that do not fill a batch are others in every epoch.

    Args:
      split: what is trained on.
      batch_size: images a batch.
      seed: names the order and the flips.
      mean: of each channel.
      std: likewise.
      dtype: of the images.

    Returns:
      ``batch_at(step) -> {"image": dtype [batch_size, height, width, channels], "label": int32
      [batch_size, height, width]}``.

    Raises:
      ValueError: if there is no full batch.
    """
    data.steps_per_epoch(len(split["image"]), batch_size)
    key = jax.jit(lambda: jax.random.fold_in(jax.random.key(seed), _STREAM))()
    return jax.tree_util.Partial(
        _BatchAt(batch_size, mean, std, jnp.dtype(dtype)),
        jax.device_put(split["image"]),
        jax.device_put(split["label"]),
        key,
    )


@dataclasses.dataclass(frozen=True)
class _BatchAt:
    """The static part of ``batch_at``: compared by value, so that equal ones compile once."""

    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Any

    def __call__(
        self, image: jax.Array, label: jax.Array, key: jax.Array, step: jax.typing.ArrayLike
    ) -> dict[str, jax.Array]:
        n = image.shape[0]
        steps = n // self.batch_size
        step = jnp.asarray(step).astype(jnp.int32)
        order_key, flip_key = jax.random.split(key)
        position = step % steps * self.batch_size + jnp.arange(self.batch_size, dtype=jnp.int32)
        chosen = permuted(position, n, jax.random.fold_in(order_key, step // steps))
        flips = jax.random.bernoulli(jax.random.fold_in(flip_key, step), 0.5, (self.batch_size,))
        images, labels = image[chosen], label[chosen].astype(jnp.int32)
        images = jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)
        labels = jnp.where(flips[:, None, None], labels[:, :, ::-1], labels)
        normal = data.normalise(images, self.mean, self.std, dtype=self.dtype)
        return {"image": normal, "label": labels}
