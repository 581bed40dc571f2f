"""Penalties that make channels small before they go, and a transform that adds them."""

from jaxprune.structured.regularizers._add_penalty import AddPenaltyState as AddPenaltyState
from jaxprune.structured.regularizers._add_penalty import add_penalty as add_penalty
from jaxprune.structured.regularizers._group_decay import group_decay as group_decay
from jaxprune.structured.regularizers._group_lasso import group_lasso as group_lasso
from jaxprune.structured.regularizers._removed_decay import removed_decay as removed_decay
from jaxprune.structured.regularizers._scale_l1 import scale_l1 as scale_l1
