"""How many channels go, and which groups are counted together."""

from jaxprune.structured.allocations._allocation import Allocation as Allocation
from jaxprune.structured.allocations._allocation import Pool as Pool
from jaxprune.structured.allocations._globally import globally as globally
from jaxprune.structured.allocations._isomorphic import isomorphic as isomorphic
from jaxprune.structured.allocations._pfec import natural_order as natural_order
from jaxprune.structured.allocations._pfec import pfec as pfec
from jaxprune.structured.allocations._ratios import ratios as ratios
from jaxprune.structured.allocations._to_widths import to_widths as to_widths
from jaxprune.structured.allocations._uniform import uniform as uniform
