"""Random crops and flips of raw images."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class CropFlip:
    """The augmentation of the CIFAR literature: pad, crop at random, flip half the images.

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


def crop_flip(image: jax.Array, key: jax.Array, augment: CropFlip) -> jax.Array:
    """Pad with zeros, crop each image at its own random place, mirror each with probability 1/2.

    The padding is raw 0, that is, black, and turns into -mean/std by the later normalisation: the
    order of the published pipelines (crop, flip, then normalise).

    Args:
        image: uint8 [batch, height, width, channels], **before** normalisation.
        key: consumed; every image gets its own draw from it.
        augment: the amount of padding, and whether to flip.

    Returns:
        Array of the shape and type of `image`.
    """
    offsets, flips = crop_flip_draws(key, image.shape[0], augment)
    if augment.pad:
        border = (augment.pad, augment.pad)
        padded = jnp.pad(image, ((0, 0), border, border, (0, 0)))
        shape = image.shape[1:]
        image = jax.vmap(
            lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], jnp.int32(0)), shape)
        )(padded, offsets)
    if augment.flip:
        image = jnp.where(flips[:, None, None, None], image[:, :, ::-1], image)
    return image


def crop_flip_draws(key: jax.Array, batch: int, augment: CropFlip) -> tuple[jax.Array, jax.Array]:
    """What `crop_flip` draws: top-left corners int32 [batch, 2], and bool [batch] who is flipped.

    Args:
        key: consumed.
        batch: number of images.
        augment: the padding p; corners lie in [0, 2p].

    Returns:
        (corners in the padded image as (row, column), flips).
    """
    crop_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(crop_key, (batch, 2), 0, 2 * augment.pad + 1)
    return offsets, jax.random.bernoulli(flip_key, 0.5, (batch,))
