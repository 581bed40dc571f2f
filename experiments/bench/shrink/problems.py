"""Networks to shrink, with inputs of the sizes that a CPU or an accelerator can run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import models


class Problem(NamedTuple):
    """A network in inference mode."""

    apply: Callable[..., Any]  # ``apply(variables, x)``
    variables: Any  # parameters and statistics
    x: jax.Array  # a batch
    what: str  # its sizes, in words


class TransformerMLP(nn.Module):
    """The two dense layers of a transformer block, from ``width`` to ``hidden`` and back."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [tokens, width] to the same shape."""
        del train
        return nn.Dense(self.width)(nn.gelu(nn.Dense(self.hidden)(x)))


def _image_network(model: nn.Module, size: int, batch: int) -> Callable[[int], Problem]:
    return lambda seed: _problem(
        model, (batch, size, size, 3), f"{batch} images of {size}x{size}", seed
    )


def problems(*, on_cpu: bool) -> dict[str, Callable[[int], Problem]]:
    """The networks by name, as functions of a seed."""
    few = 1 if on_cpu else 64
    tokens = 512 if on_cpu else 8192
    mlp = TransformerMLP(768, 3072)
    return {
        "resnet20": _image_network(models.ResNet(10, 3), 32, 16 * few),
        "resnet56": _image_network(models.ResNet(10, 9), 32, 16 * few),
        # Not at 32x32: XLA's CPU backend runs the 2x2 images of its last stage at 1 GMAC/s.
        "vgg16": _image_network(models.VGG16(10), 64, 4 * few),
        "resnet50": _image_network(
            models.ImageNetResNet(1000, (3, 4, 6, 3), bottleneck=True), 224, few
        ),
        "transformer_mlp": lambda seed: _problem(
            mlp, (tokens, 768), f"{tokens} tokens of 768, hidden 3072", seed
        ),
    }


def _problem(model: nn.Module, shape: tuple[int, ...], what: str, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    structs = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(shape), train=False), jax.random.key(0)
    )

    def leaf(path: Any, struct: Any) -> jax.Array:
        # Activations keep their scale through He's initialisation and norms at their start.
        if path[-1].key in ("scale", "var"):
            return jnp.ones(struct.shape)
        if path[-1].key != "kernel":
            return jnp.zeros(struct.shape)
        scale = np.sqrt(2 / np.prod(struct.shape[:-1]))
        return jnp.asarray(scale * rng.normal(size=struct.shape), jnp.float32)

    variables = jax.tree_util.tree_map_with_path(leaf, structs)

    def apply(variables: Any, x: jax.Array) -> Any:
        return model.apply(variables, x, train=False)

    return Problem(apply, variables, x, what)
