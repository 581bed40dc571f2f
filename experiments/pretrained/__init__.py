"""Pretrained networks that come by the name of a package, or in a folder, as plain functions.

Each module has ``load()``. Weights are read from where pip put them; nothing of a package is
imported, and none is a dependency: an error says how to install the one that is missing.
"""

from experiments.pretrained._network import Network as Network
from experiments.pretrained._network import is_kernel as is_kernel
from experiments.pretrained._write import write as write
