"""What is trained in the benchmark of whole training loops: networks and synthetic images."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments import data, models

CLASSES = 10
MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
SHAPES = {"lenet_300_100": MNIST, "resnet20": CIFAR, "resnet56": CIFAR}
"""Model -> shape of an image."""

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 1e-4
MEAN, STD = 0.5, 0.25  # of every channel
AUGMENTATION = data.CropFlip()


class Problem(NamedTuple):
    """A network and the images that it is trained on, [n, height, width, channels] on the host.

    ``batch_at`` is that of `experiments.data.make_batch_at`, with the images on the device.
    """

    name: str
    batch: int
    precision: str
    model: Any
    params: Any
    model_state: Any
    images: np.ndarray
    labels: np.ndarray
    augment: data.CropFlip | None
    batch_at: jax.tree_util.Partial
    seed: int

    @property
    def parameters(self) -> int:
        """Entries of all parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def weights(self) -> int:
        """Prunable weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(jp.scores.magnitude(self.params)))

    @property
    def step_flops(self) -> int:
        """Of a training step, two for a multiply-accumulate.

        Those of a forward pass three times (outputs, gradients by weights and by inputs), but for
        the gradient by the images, which nobody needs: of LeNet-300-100 it would be 30 %.
        """
        apply = partial(self.model.apply, train=False)
        image = jax.ShapeDtypeStruct((1, *self.images.shape[1:]), jnp.dtype(self.precision))
        found = jp.metrics.flops(apply, {"params": self.params, **self.model_state}, image)
        return 2 * (3 * found.macs - found.layers[0].macs) * self.batch


def make(name: str, batch: int, *, images: int, precision: str, seed: int) -> Problem:
    """Draws parameters and images for a network of `SHAPES`."""
    shape, dtype = SHAPES[name], jnp.dtype(precision)
    model = models.create(name, CLASSES, dtype)
    params, model_state = models.init(model, jax.random.key(seed), shape)
    drawn = np.random.default_rng(seed)
    pixels = drawn.integers(0, 256, (images, *shape), dtype=np.uint8)
    labels = drawn.integers(0, CLASSES, images).astype(np.int32)
    augment = AUGMENTATION if shape == CIFAR else None
    batch_at = data.make_batch_at(
        {"image": pixels, "label": labels},
        batch_size=batch,
        seed=seed,
        mean=[MEAN] * shape[-1],
        std=[STD] * shape[-1],
        augment=augment,
        dtype=dtype,
    )
    return Problem(
        name, batch, precision, model, params, model_state, pixels, labels, augment, batch_at, seed
    )


def make_optimizer(learning_rate: Any) -> optax.GradientTransformation:
    """SGD with Nesterov momentum; weight decay of every parameter, before momentum."""
    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.sgd(learning_rate, MOMENTUM, nesterov=True),
    )
