"""Which weights stay. A mask looks like the parameters: True = kept, None = not prunable."""

from jaxprune.masks._allocation import Allocation as Allocation
from jaxprune.masks._allocation import Pools as Pools
from jaxprune.masks._allocation import globally as globally
from jaxprune.masks._allocation import uniform as uniform
from jaxprune.masks._apply import apply_mask as apply_mask
from jaxprune.masks._apply import prune as prune
from jaxprune.masks._count import count as count
from jaxprune.masks._info import PruneInfo as PruneInfo
from jaxprune.masks._make import dense as dense
from jaxprune.masks._make import make as make
from jaxprune.masks._make import make_with_info as make_with_info
from jaxprune.masks._report import report as report
