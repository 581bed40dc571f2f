"""A pruned network on the disk."""

from jaxprune._network._file import load as load
from jaxprune._network._file import save as save
from jaxprune._network._file import write as write
from jaxprune._network._leaves import Cut as Cut
from jaxprune._network._leaves import keys_of as keys_of
from jaxprune._network._shrunk import Shrunk as Shrunk
from jaxprune._network._shrunk import read_shrunk as read_shrunk
