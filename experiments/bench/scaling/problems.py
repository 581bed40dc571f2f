"""Networks of real sizes, of which only the shapes exist."""

import math
from typing import NamedTuple

Shapes = dict[str, tuple[int, ...]]


def transformer(width: int, blocks: int) -> Shapes:
    """The kernels of the blocks of a transformer, four leaves a block."""
    kernels = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    return {
        f"block_{i}/{name}/kernel": shape for i in range(blocks) for name, shape in kernels.items()
    }


class Network(NamedTuple):
    """Weights of a size. What is compiled may be the same weights in fewer leaves."""

    name: str
    shapes: Shapes
    compiled: Shapes

    @property
    def weights(self) -> int:
        """How many."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def largest(self) -> int:
        """Weights of the largest leaf."""
        return max(map(math.prod, self.shapes.values()))


NETWORKS = (
    Network("1e9", transformer(4096, 5), transformer(4096, 5)),
    # 220 leaves would compile for many minutes; these have more than 2**32 weights, as all have.
    Network("1e11", transformer(12288, 55), transformer(12288, 3)),
)
