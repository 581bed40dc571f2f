"""How a total is spread over the leaves: which are counted together, and how many each loses."""

from jaxprune.masks.allocations._allocation import Allocation as Allocation
from jaxprune.masks.allocations._allocation import OnCollapse as OnCollapse
from jaxprune.masks.allocations._allocation import Pools as Pools
from jaxprune.masks.allocations._erk import erk as erk
from jaxprune.masks.allocations._globally import globally as globally
from jaxprune.masks.allocations._lamp import lamp as lamp
from jaxprune.masks.allocations._per_leaf import per_leaf as per_leaf
from jaxprune.masks.allocations._per_output import per_output as per_output
from jaxprune.masks.allocations._uniform import uniform as uniform
from jaxprune.masks.allocations._uniform_plus import uniform_plus as uniform_plus
