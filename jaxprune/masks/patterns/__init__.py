"""Which weights go together: N:M groups, blocks, channels."""

from jaxprune.masks.patterns._block import block as block
from jaxprune.masks.patterns._channels import channels as channels
from jaxprune.masks.patterns._nm import nm as nm
from jaxprune.masks.patterns._pattern import Pattern as Pattern
from jaxprune.masks.patterns._pattern import PatternSpec as PatternSpec
from jaxprune.masks.patterns._pattern import resolve as resolve
from jaxprune.masks.patterns._pattern import sizes_of as sizes_of
from jaxprune.masks.patterns._pattern import split as split
