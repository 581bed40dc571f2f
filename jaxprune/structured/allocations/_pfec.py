"""Named configurations of filter pruning, as kept widths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# A stage: (residual blocks, channels of the first convolution of each).
_RESNETS = {
    "resnet56": ((9, 16), (9, 32), (9, 64)),
    "resnet110": ((18, 16), (18, 32), (18, 64)),
    "resnet18": ((2, 64), (2, 128), (2, 256), (2, 512)),
    "resnet34": ((3, 64), (4, 128), (6, 256), (3, 512)),
}

# The channels that stay in each stage, and the layers that are skipped. Layers count from 1, the
# convolution before the blocks; the first one of block i, counted from 0, is layer 2 i + 2.
_CONFIGURATIONS = {
    "resnet56-A": ((14, 28, 57), (16, 20, 38, 54)),
    "resnet56-B": ((6, 22, 57), (16, 18, 20, 34, 38, 54)),
    "resnet56-C": ((6, 16, 38), (16, 18, 20, 34, 38, 54)),
    "resnet56-D": ((6, 12, 25), (16, 18, 20, 34, 38, 54)),
    "resnet110-A": ((8, 32, 64), (36,)),
    "resnet110-B": ((8, 19, 44), (36, 38, 74)),
    "resnet110-C": ((8, 16, 32), (36, 38, 74)),
    "resnet110-D": ((8, 12, 19), (36, 38, 74)),
    "resnet18-C": ((57, 115, 204, 358), (16,)),
    "resnet18-D": ((51, 102, 179, 358), (16,)),
    "resnet34-A": ((44, 89, 179, 512), (2, 8, 14, 16, 26, 28, 30, 32)),
    "resnet34-B": ((32, 51, 153, 512), (2, 8, 14, 16, 26, 28, 30, 32)),
    "resnet34-C": ((32, 64, 128, 256), (2, 8, 14, 16, 26, 32)),
    "resnet34-D": ((38, 76, 128, 256), (32,)),
}

# Removed anew in each round, of what is left: 10, 15 and 20 % of the stages, no layer skipped.
_ROUNDS = (
    (14, 27, 51),
    (12, 22, 40),
    (10, 18, 32),
    (9, 15, 25),
    (8, 12, 20),
    (7, 10, 16),
    (6, 8, 12),
    (5, 6, 9),
)

# All thirteen convolutions.
_VGG16 = {
    "vgg16-A": (32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256),
    "vgg16-B": (32, 64, 128, 128, 196, 196, 196, 196, 196, 256, 256, 256, 256),
    "vgg16-C": (32, 64, 64, 128, 128, 128, 128, 196, 196, 196, 196, 196, 196),
}


def pfec(name: str) -> tuple[int, ...]:
    """How many filters stay of each convolution that a published configuration prunes.

    Of residual networks these are the first convolutions of all blocks (skipped ones with their
    full width), of VGG-16 all thirteen convolutions, in the order of the network.

    * ``"resnet56-A"`` to ``"D"``, ``"resnet110-A"`` to ``"D"``: CIFAR; A and B are the paper's.
    * ``"resnet56-I1"`` to ``"I8"``, ``"resnet110-I1"`` to ``"I8"``: the rounds of the iterative
      configuration.
    * ``"resnet18-C"``, ``"D"``, ``"resnet34-A"`` to ``"D"``: ImageNet; A and B of ResNet-34 are the
      paper's.
    * ``"vgg16-A"`` to ``"C"``: CIFAR; A is the paper's.

    Widths are rounded as in the codes of Le and Hua: ``int(filters * (1 - fraction))``.

    Args:
      name: network and configuration.

    Returns:
      The widths. With the paths of the convolutions they are an allocation, see `to_widths`.

    Raises:
      ValueError: if there is no such configuration.

    Example:
      >>> import jaxprune as jp
      >>> jp.structured.pfec("resnet56-B")[:9]
      (6, 6, 6, 6, 6, 6, 6, 16, 16)
      >>> paths = [f"stage0_block{i}/conv0/kernel" for i in (0, 1, 10, 2)]
      >>> jp.structured.natural_order(paths)[-1]
      'stage0_block10/conv0/kernel'

      With ``groups`` and ``scores`` of a ResNet-56 whose first convolutions are called "conv0"::

        paths = natural_order(g.name for g in groups if g.name.endswith("conv0/kernel"))
        widths = dict(zip(paths, pfec("resnet56-B"), strict=True))
        kept = select(groups, scores, allocation=to_widths(widths))

    References:
      Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 4 and table 1. Le & Hua,
      Network Pruning That Matters: A Case Study on Retraining Variants, ICLR 2021 (all others).
    """
    if name in _VGG16:
        return _VGG16[name]
    network, _, configuration = name.partition("-")
    if name in _CONFIGURATIONS:
        return _inner(network, *_CONFIGURATIONS[name])
    for number, kept in enumerate(_ROUNDS, 1):
        if network in ("resnet56", "resnet110") and configuration == f"I{number}":
            return _inner(network, kept, ())
    rounds = [f"{n}-I1 to {n}-I{len(_ROUNDS)}" for n in ("resnet56", "resnet110")]
    known = ", ".join([*_CONFIGURATIONS, *_VGG16, *rounds])
    raise ValueError(f"there is no configuration {name!r}; there are {known}.")


def natural_order(names: Iterable[str]) -> list[str]:
    """Sorts names with the numbers in them as numbers: "block10" after "block9".

    The order of a network whose layers are numbered, where alphabetical order is not.

    Args:
      names: paths, for instance.

    Returns:
      The names, sorted.

    Example:
      >>> natural_order(["block10", "block9", "block"])
      ['block', 'block9', 'block10']
    """

    def key(name: str) -> list[tuple[bool, int, str]]:
        parts = re.split(r"(\d+)", name)
        return [(not x.isdecimal(), int(x) if x.isdecimal() else 0, x) for x in parts]

    return sorted(names, key=key)


def _inner(network: str, kept: Sequence[int], skipped: Sequence[int]) -> tuple[int, ...]:
    stages = zip(_RESNETS[network], kept, strict=True)
    widths = [(full, left) for (blocks, full), left in stages for _ in range(blocks)]
    return tuple(full if 2 * i + 2 in skipped else left for i, (full, left) in enumerate(widths))
