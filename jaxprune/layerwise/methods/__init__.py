"""The methods of `solve`, one a file."""

from collections.abc import Callable

from jaxprune.layerwise._method import Method
from jaxprune.layerwise.methods._admm import admm as admm
from jaxprune.layerwise.methods._alps import alps as alps
from jaxprune.layerwise.methods._frank_wolfe import frank_wolfe as frank_wolfe
from jaxprune.layerwise.methods._ria import ria as ria
from jaxprune.layerwise.methods._sparsegpt import sparsegpt as sparsegpt
from jaxprune.layerwise.methods._stade import stade as stade
from jaxprune.layerwise.methods._swaps import swap as swap
from jaxprune.layerwise.methods._swaps import swaps as swaps
from jaxprune.layerwise.methods._wanda import wanda as wanda

METHODS: dict[str, Callable[..., Method]] = {
    "wanda": wanda,
    "ria": ria,
    "stade": stade,
    "sparsegpt": sparsegpt,
    "admm": admm,
    "alps": alps,
    "swaps": swaps,
    "frank_wolfe": frank_wolfe,
}
"""Name -> factory: the only table of methods."""
