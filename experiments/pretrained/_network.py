"""What a pretrained network is here: plain parameters and a plain function."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Network(NamedTuple):
    """A pretrained network.

    Attributes:
      name: for reports.
      params: float arrays in nested dictionaries. Kernels are ``[in, out]``, or
        ``[height, width, in, out]``, as in Flax.
      apply: ``apply(params, inputs) -> outputs``, in plain JAX.
      where: ``where(path, leaf) -> bool``: the weights that pruning takes.
      stacked: rules from paths to the axes along which layers are stacked, see
        `jaxprune.masks.make`.
      to_torch: ``to_torch(params)``: the tensors by the names and in the layouts that the network
        came with, so that PyTorch loads them back.
      windows: what is repaired together, see `jaxprune.layerwise.prune`: halves of blocks.
      files: what else the network came with and a reader of its tensors needs, by file name.
    """

    name: str
    params: Any
    apply: Callable[[Any, Any], Any]
    where: Callable[[str, Any], bool]
    to_torch: Callable[[Any], dict[str, np.ndarray]]
    stacked: Mapping[str, int] | None = None
    files: Mapping[str, pathlib.Path] = {}
    windows: tuple[str, ...] | None = None


def is_kernel(path: str, leaf: Any) -> bool:
    """Whether a leaf is the kernel of a product or a convolution."""
    del leaf
    return path.rpartition("/")[2] == "kernel"


def with_rest(
    tensors: Mapping[str, np.ndarray], params: Any, to_torch: Callable[[Any], dict[str, np.ndarray]]
) -> Callable[[Any], dict[str, np.ndarray]]:
    """``to_torch`` with the tensors that are no parameters of ours, as they came."""
    ours = to_torch(params)
    rest = {name: x for name, x in tensors.items() if name not in ours}
    return lambda params: {**rest, **to_torch(params)}
