"""From raw pixels to what a network sees."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def normalise(
    image: jax.Array | np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Scale uint8 pixels to zero mean and unit variance per channel.

    (x / 255 - mean) / std, computed in float32 as (x - 255 mean) / (255 std) and then cast.

    Args:
        image: uint8 [..., channels].
        mean: mean of each channel, in [0, 1] units.
        std: standard deviation of each channel, same units, positive.
        dtype: floating type of the result.

    Returns:
        [..., channels] of type `dtype`.

    Raises:
        TypeError: the image is not uint8 (it may have been normalised before).
        ValueError: the number of channels differs, or a standard deviation is not positive.
    """
    if image.dtype != np.uint8:
        raise TypeError(
            f"normalise takes raw uint8 pixels, got {image.dtype}; pass floating images, which are"
            " taken to be normalised, to the model as they are"
        )
    return standardise(image, *pixel_statistics(mean, std, image.shape[-1]), dtype=dtype)


def pixel_statistics(
    mean: Sequence[float], std: Sequence[float], channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation in pixel units (0..255), float32 [channels], checked."""
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"the images have {channels} channels but mean={tuple(mean)} and std={tuple(std)};"
            " give one number for each channel"
        )
    if not all(s > 0 for s in std):
        raise ValueError(f"std={tuple(std)} must be positive; a constant channel takes 1.0")
    return 255 * np.asarray(mean, np.float32), 255 * np.asarray(std, np.float32)


def standardise(
    image: jax.Array | np.ndarray,
    pixel_mean: jax.Array | np.ndarray,
    pixel_std: jax.Array | np.ndarray,
    *,
    dtype: jax.typing.DTypeLike,
) -> jax.Array:
    """(x - pixel_mean) / pixel_std in float32, then cast.

    A subtraction and a division leave the compiler nothing to fuse into one rounding, so compiled
    and eager results are the same bits.
    """
    lead = (1,) * (image.ndim - 1)
    centred = jnp.asarray(image).astype(jnp.float32) - jnp.reshape(pixel_mean, (*lead, -1))
    return (centred / jnp.reshape(pixel_std, (*lead, -1))).astype(dtype)
