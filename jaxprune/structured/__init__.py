"""Structured pruning: channels removed for good, from any JAX model."""

from jaxprune.structured._cut import cut as cut
from jaxprune.structured._cut import widths as widths
from jaxprune.structured._graph import channel_groups as channel_groups
from jaxprune.structured._groups import ChannelGroups as ChannelGroups
from jaxprune.structured._groups import FixedAxis as FixedAxis
from jaxprune.structured._groups import Group as Group
from jaxprune.structured._groups import Member as Member
from jaxprune.structured._masks import kept_of as kept_of
from jaxprune.structured._masks import masks as masks
from jaxprune.structured._shrink import shrink as shrink
