"""What is trained in the benchmark of training steps: models with data that does not change."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import models

CLASSES, VOCABULARY = 10, 256


class Sizes(NamedTuple):
    """How large the problems are: batches, widths, and tokens of a sequence."""

    mlp_batch: int
    mlp_width: int
    resnet_batch: int
    transformer_batch: int
    transformer_length: int
    transformer_width: int


# XLA's convolutions are slow on CPUs: the ResNet gets smaller batches there.
ON_CPU = Sizes(128, 1024, 32, 16, 64, 256)
ON_ACCELERATOR = Sizes(1024, 4096, 512, 32, 256, 1024)


def sizes() -> Sizes:
    """The sizes for this kind of device."""
    return ON_CPU if jax.devices()[0].platform == "cpu" else ON_ACCELERATOR


class Problem(NamedTuple):
    """A model and a batch."""

    what: str  # the sizes, for the table
    params: Any  # its parameters
    model_state: Any  # batch statistics, or `{}`
    batch: Any  # what the loss gets
    # ``loss(params, model_state, batch) -> (loss, model_state)``
    loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]]


def _mlp(sizes: Sizes, key: jax.Array) -> Problem:
    width = sizes.mlp_width
    model = models.MLP(num_classes=CLASSES, widths=(width, width))
    what = f"784-{width}-{width}-{CLASSES}, batch {sizes.mlp_batch}"
    return _of_images(model, what, (28, 28, 1), sizes.mlp_batch, key)


def _resnet20(sizes: Sizes, key: jax.Array) -> Problem:
    model = models.create("resnet20", CLASSES)
    return _of_images(model, f"batch {sizes.resnet_batch}", (32, 32, 3), sizes.resnet_batch, key)


def _of_images(
    model: Any, what: str, shape: tuple[int, ...], batch: int, key: jax.Array
) -> Problem:
    of_params, of_images, of_labels = jax.random.split(key, 3)
    params, model_state = models.init(model, of_params, shape)
    data = {
        "image": jax.random.normal(of_images, (batch, *shape)),
        "label": jax.random.randint(of_labels, (batch,), 0, CLASSES),
    }
    loss_fn = models.make_loss_fn(model)

    def loss(params: Any, model_state: Any, batch: Any) -> tuple[jax.Array, Any]:
        value, (model_state, _) = loss_fn(params, model_state, batch, jax.random.key(0))
        return value, model_state

    return Problem(what, params, model_state, data, loss)


def transformer(sizes: Sizes) -> models.GPT:
    """A causal language model of two blocks, its output layer apart from the embedding."""
    width, length = sizes.transformer_width, sizes.transformer_length
    heads = max(1, width // 64)
    return models.GPT(VOCABULARY, max_length=length, width=width, depth=2, heads=heads, tied=False)


def _transformer(sizes: Sizes, key: jax.Array) -> Problem:
    batch, length, width = sizes[3:]
    model = transformer(sizes)
    of_params, of_tokens = jax.random.split(key)
    tokens = jax.random.randint(of_tokens, (batch, length + 1), 0, VOCABULARY)
    params = jax.jit(model.init, static_argnums=2)(of_params, tokens[:1, 1:], False)["params"]

    def loss(params: Any, model_state: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        logits: Any = model.apply({"params": params}, tokens[:, :-1], True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.mean(losses), model_state

    what = f"2 blocks, width {width}, length {length}, batch {batch}"
    return Problem(what, params, {}, tokens, loss)


PROBLEMS: dict[str, Callable[[Sizes, jax.Array], Problem]] = {
    "mlp": _mlp,
    "resnet20": _resnet20,
    "transformer": _transformer,
}
"""Name -> factory(sizes, key)."""
