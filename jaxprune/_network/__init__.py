"""A pruned network on the disk."""

from jaxprune._network._file import load as load
from jaxprune._network._file import save as save
