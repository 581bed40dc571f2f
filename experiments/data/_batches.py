"""Training batches as a pure function of (seed, step), for use inside compiled steps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._augment import CropFlip, crop_flip
from ._normalise import pixel_statistics, standardise
from ._permutation import permuted

# Sets these draws apart from what callers split off a key of the same seed: fold_in(key, i) is the
# i-th key of a split, and nobody splits this often.
_STREAM = int.from_bytes(b"data")


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Full batches in n examples; the remainder of n / batch_size is dropped.

    Args:
        n: number of examples.
        batch_size: examples per step.

    Returns:
        n // batch_size, at least 1.

    Raises:
        ValueError: not even one full batch.

    Example:
        >>> steps_per_epoch(45_000, 128)
        351
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if batch_size > n:
        raise ValueError(
            f"batch_size={batch_size} is larger than the {n} examples of the split; take at most"
            f" batch_size={n}"
        )
    return n // batch_size


def make_batch_at(
    dataset_split: Mapping[str, Any],
    *,
    batch_size: int,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: CropFlip | None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.tree_util.Partial:
    """Build `batch_at(step)`, which makes the batch of a step from nothing but (seed, step).

    Epoch e = step // (n // batch_size) runs through its own pseudo-random permutation of the n
    examples in full batches. No example comes twice in an epoch; the n mod batch_size examples left
    over are dropped, and they are others in every epoch. A resumed run needs no iterator state.

    The result is a pytree: pass it to a compiled function as an **argument** and the images are
    arguments too, not constants baked into the executable. Two of them that differ in seed or
    data of equal shape share one compilation.

    Args:
        dataset_split: {"image": uint8 [n, height, width, channels], "label": int32 [n]}; copied to
            the default device unless they are JAX arrays already.
        batch_size: examples per step, at most n.
        seed: names the order and the augmentation.
        mean: mean of each channel, in [0, 1] units.
        std: standard deviation of each channel, same units.
        augment: random crops and flips, or `None`.
        dtype: floating type of the images; they are normalised in float32 and then cast.

    Returns:
        `batch_at(step) -> {"image": dtype [batch_size, height, width, channels], "label": int32
        [batch_size]}`; the step is an integer or a traced integer scalar, at least 0.

    Raises:
        TypeError: the images are not uint8.
        ValueError: the split has no full batch, or sizes do not match.

    Example:
        >>> import numpy as np
        >>> split = {"image": np.zeros((10, 8, 8, 1), np.uint8), "label": np.arange(10)}
        >>> batch_at = make_batch_at(split, batch_size=4, seed=0, mean=[0], std=[1], augment=None)
        >>> batch_at(7)["image"].shape
        (4, 8, 8, 1)
    """
    image, label = dataset_split["image"], dataset_split["label"]
    if image.dtype != np.uint8 or image.ndim != 4:
        raise TypeError(
            f"images are {image.dtype} of shape {image.shape}; batches are made from raw uint8"
            " [n, height, width, channels]"
        )
    if label.shape != image.shape[:1]:
        raise ValueError(f"{image.shape[0]} images but labels of shape {label.shape}")
    steps_per_epoch(image.shape[0], batch_size)
    pixel_mean, pixel_std = pixel_statistics(mean, std, image.shape[-1])
    return jax.tree_util.Partial(
        _BatchAt(batch_size, augment, jnp.dtype(dtype)),
        # Not jnp.asarray, which compiles a copy for every shape.
        jax.device_put(image),
        jax.device_put(label.astype(np.int32)),
        jax.jit(lambda: jax.random.fold_in(jax.random.key(seed), _STREAM))(),
        jax.device_put(pixel_mean),
        jax.device_put(pixel_std),
    )


@dataclasses.dataclass(frozen=True)
class _BatchAt:
    """The static part of `batch_at`.

    A frozen dataclass and not a closure: it is compared by value, and so the pytree structure of
    two `Partial`s with equal settings is equal and their callers are compiled once.
    """

    batch_size: int
    augment: CropFlip | None
    dtype: Any

    def __call__(
        self,
        image: jax.Array,
        label: jax.Array,
        key: jax.Array,
        pixel_mean: jax.Array,
        pixel_std: jax.Array,
        step: jax.typing.ArrayLike,
    ) -> dict[str, jax.Array]:
        n = label.shape[0]
        steps = n // self.batch_size
        step = jnp.asarray(step).astype(jnp.int32)
        order_key, augment_key = jax.random.split(key)
        position = step % steps * self.batch_size + jnp.arange(self.batch_size, dtype=jnp.int32)
        chosen = permuted(position, n, jax.random.fold_in(order_key, step // steps))
        # Indices of a permutation are in range: tell the gather, so that it need not clamp.
        picked = image.at[chosen].get(mode="promise_in_bounds")
        if self.augment is not None:
            picked = crop_flip(picked, jax.random.fold_in(augment_key, step), self.augment)
        return {
            "image": standardise(picked, pixel_mean, pixel_std, dtype=self.dtype),
            "label": label.at[chosen].get(mode="promise_in_bounds"),
        }
