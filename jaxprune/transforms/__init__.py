"""What happens to an update: optax transformations that keep a network sparse.

Two notions carry this folder. A transform that keeps weights at zero **wraps** the optimizer,
because a member of a chain sees neither the raw gradient nor its neighbours' state. And the mask
is **data**: it lives in the optimizer state, in a `PruneMask` node, where `get_mask` and
`set_mask` find it however deep wrappers have buried it.
"""

from jaxprune.transforms._ac_dc import ac_dc as ac_dc
from jaxprune.transforms._assert_sparse import assert_sparse as assert_sparse
from jaxprune.transforms._averaged import AveragedState as AveragedState
from jaxprune.transforms._averaged import averaged as averaged
from jaxprune.transforms._averaged import get_average as get_average
from jaxprune.transforms._fixed_mask import FixedMaskState as FixedMaskState
from jaxprune.transforms._fixed_mask import fixed_mask as fixed_mask
from jaxprune.transforms._freeze import freeze as freeze
from jaxprune.transforms._gmp import gmp as gmp
from jaxprune.transforms._gsm import gsm as gsm
from jaxprune.transforms._keep_zeros import keep_zeros as keep_zeros
from jaxprune.transforms._lc import lc as lc
from jaxprune.transforms._lc_forms import LCState as LCState
from jaxprune.transforms._learning_rate import set_learning_rate as set_learning_rate
from jaxprune.transforms._mask_state import PruneMask as PruneMask
from jaxprune.transforms._mask_state import get_mask as get_mask
from jaxprune.transforms._mask_state import has_mask as has_mask
from jaxprune.transforms._mask_state import set_mask as set_mask
from jaxprune.transforms._moments import zero_pruned as zero_pruned
from jaxprune.transforms._moving import MovingMaskState as MovingMaskState
from jaxprune.transforms._one_shot import one_shot as one_shot
from jaxprune.transforms._position import check_position as check_position
from jaxprune.transforms._prune_at import prune_at as prune_at
from jaxprune.transforms._rigl import rigl as rigl
from jaxprune.transforms._set import set_ as set_
from jaxprune.transforms._soft import soft as soft
from jaxprune.transforms._static import static as static
from jaxprune.transforms._zero_updates import zero_updates as zero_updates
