"""From the program of a function to the groups of its channels: what must vanish together."""

from jaxprune.structured.analysis._graph import channel_groups as channel_groups
