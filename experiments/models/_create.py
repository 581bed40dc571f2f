"""From the names of commands and tables to models."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._densenet import DenseNet
from ._imagenet_resnet import ImageNetResNet
from ._lenet import LeNet5
from ._mlp import MLP
from ._mobilenet import MobileNetV2
from ._resnet import ResNet
from ._small_cnn import SmallCNN
from ._vgg import VGG16
from ._vit import ViT
from ._wide_resnet import WideResNet

Factory = Callable[..., nn.Module]

MODELS: dict[str, Factory] = {
    "lenet_300_100": MLP,
    "lenet5": LeNet5,
    "small_cnn": SmallCNN,
    "resnet20": partial(ResNet, blocks=3),
    "resnet32": partial(ResNet, blocks=5),
    "resnet56": partial(ResNet, blocks=9),
    "resnet110": partial(ResNet, blocks=18),
    "resnet18_cifar": partial(ImageNetResNet, blocks=(2, 2, 2, 2), small_images=True),
    "wide_resnet28_10": WideResNet,
    "vgg16_bn": VGG16,
    "vgg16_bn_single": partial(VGG16, hidden_width=None),
    "densenet40": DenseNet,
    "resnet18": partial(ImageNetResNet, blocks=(2, 2, 2, 2)),
    "resnet34": partial(ImageNetResNet, blocks=(3, 4, 6, 3)),
    "resnet50": partial(ImageNetResNet, blocks=(3, 4, 6, 3), bottleneck=True),
    "mobilenet_v2": MobileNetV2,
    "vit_s16": ViT,
    "vit_ti4": partial(ViT, patch=4, width=192, heads=3),
}
"""Name -> factory(num_classes=..., dtype=..., **fields of the model).

resnet20, 32, 56 and 110 are the CIFAR networks with shortcuts without parameters; resnet18, 34 and
50 are those for ImageNet, and resnet18_cifar is the first of them for small images. vgg16_bn has a
hidden dense layer, vgg16_bn_single the logits alone. vit_ti4 has patches of 4x4 pixels, for small
images.
"""


def create(
    name: str,
    num_classes: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
    **fields: Any,
) -> nn.Module:
    """Make the model of a name. All are called as `model(x, train)`.

    Args:
        name: a key of `MODELS`.
        num_classes: number of logits.
        dtype: type of the computation; parameters and logits are float32 in any case.
        **fields: other fields of the model, such as `widths`, or `axis_name` where there is batch
            normalisation.

    Returns:
        An unbound Flax Linen module.

    Raises:
        ValueError: unknown name.
        TypeError: the model has no such field.

    Example:
        >>> create("resnet56", 10).blocks
        9
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown model {name!r}{hint} Known: {', '.join(MODELS)}")
    return MODELS[name](num_classes=num_classes, dtype=dtype, **fields)
