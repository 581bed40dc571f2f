"""MobileNetV2 on images of any prepared set: agreement with the dense network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments import caches, data
from experiments.pretrained import mobilenet as network_of
from experiments.pruning import batches
from experiments.pruning.options import Settings
from experiments.pruning.subject import Subject


def mobilenet(settings: Settings, console: Console) -> Subject:
    """Calibration and training on images of the training split, agreement on those of the test.

    There are no labels: training follows the dense network's probabilities.
    """
    network = network_of.load()
    name = settings.data or "cifar10"
    found = data.load(
        name,
        data_dir=settings.data_dir,
        cache=caches.folder("data"),
        say=caches.teller(console),
    )
    if found.image_shape[-1] != 3:
        raise ValueError(f"{name} has images of {found.image_shape[-1]} channels; give one of 3.")
    size = settings.batch_size or 32
    side = settings.image_size
    pixels = found.train["image"]
    chosen = batches.order(len(pixels), settings.seed)

    def scaled(rows: np.ndarray) -> np.ndarray:
        return np.asarray(_scaled(jnp.asarray(pixels[rows]), side))

    def apply_to_bytes(params: Any, images: jax.Array) -> jax.Array:
        return network.apply(params, _scaled(images, side))

    def loss_fn(params: Any, dense: Any, batch: jax.Array, key: jax.Array) -> Any:
        del key
        wanted = jax.lax.stop_gradient(apply_to_bytes(dense, batch))
        loss = jnp.mean(_divergence(wanted, apply_to_bytes(params, batch)))
        return loss, (dense, {"loss": loss})

    calibration = chosen[: settings.calibration]
    return Subject(
        network=network,
        calibration=tuple(map(scaled, batches.pieces(calibration, size))),
        described={
            "set": name,
            "split": "train",
            "examples": settings.calibration,
            "image_size": side,
            "seed": settings.seed,
        },
        loss_fn=loss_fn,
        model_state=network.params,
        batch_at=batches.endless(pixels, settings.seed, size),
        batch_size=size,
        learning_rate=1e-3,
        evaluate=_Evaluate(
            apply_to_bytes, found.test["image"][: settings.examples], network.params, size
        ),
        measure="agreement",
        higher=True,
    )


def _scaled(images: jax.Array, side: int) -> jax.Array:
    """Bytes ``[n, h, w, 3]`` as pixels in [0, 1] of ``side`` a side."""
    shape = (images.shape[0], side, side, 3)
    return jax.image.resize(jnp.asarray(images, jnp.float32) / 255, shape, "bilinear")


def _divergence(wanted: jax.Array, found: jax.Array) -> jax.Array:
    """KL(wanted || found) of logits, ``[n]``, in nats."""
    p, q = jax.nn.log_softmax(wanted), jax.nn.log_softmax(found)
    return jnp.sum(jnp.exp(p) * (p - q), -1)


class _Evaluate:
    """How often the most likely class is the dense network's, and the divergence from it."""

    def __init__(self, apply: Any, images: np.ndarray, dense: Any, batch_size: int):
        self._apply = jax.jit(apply)
        self._batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        self._wanted = [np.asarray(self._apply(dense, batch)) for batch in self._batches]

    def __call__(self, params: Any) -> dict[str, float]:
        same, divergence = [], []
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            found = self._apply(params, batch)
            same.append(np.asarray(found).argmax(-1) == wanted.argmax(-1))
            divergence.append(np.asarray(_divergence(jnp.asarray(wanted), found)))
        return {
            "agreement": float(np.mean(np.concatenate(same))),
            "divergence": float(np.mean(np.concatenate(divergence))),
        }
