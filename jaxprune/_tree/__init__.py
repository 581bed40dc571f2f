"""Parameter trees: readable paths, which leaves are prunable, trees side by side, norms.

Three notions carry the whole library:

* a **path** is the readable address of a leaf, its parts joined by "/": ``"Dense_0/kernel"``;
* a leaf is **prunable** when ``where(path, leaf)`` says so; `default_where` is the rule used
  when nobody passes another;
* a **partial tree** (scores, masks) looks like the parameters and holds ``None`` where a leaf is
  not prunable. ``None`` is an empty subtree to JAX, so partial trees travel through `jit`,
  `vmap` and checkpoints without special care, but mapping one beside the full parameters needs
  `map_partial`.
"""

from jaxprune._tree._norms import distance as distance
from jaxprune._tree._norms import has_norm as has_norm
from jaxprune._tree._norms import largest as largest
from jaxprune._tree._norms import leaves_with_norm as leaves_with_norm
from jaxprune._tree._norms import relative_distance as relative_distance
from jaxprune._tree._norms import squared_norm as squared_norm
from jaxprune._tree._norms import wide_dtype as wide_dtype
from jaxprune._tree._partial import beside as beside
from jaxprune._tree._partial import columns_of as columns_of
from jaxprune._tree._partial import map_partial as map_partial
from jaxprune._tree._paths import PyTree as PyTree
from jaxprune._tree._paths import is_absent as is_absent
from jaxprune._tree._paths import is_floating as is_floating
from jaxprune._tree._paths import is_traced as is_traced
from jaxprune._tree._paths import known as known
from jaxprune._tree._paths import named_leaves as named_leaves
from jaxprune._tree._paths import own_name as own_name
from jaxprune._tree._paths import owner as owner
from jaxprune._tree._paths import path_string as path_string
from jaxprune._tree._paths import size as size
from jaxprune._tree._structure import check_matches as check_matches
from jaxprune._tree._structure import check_same as check_same
from jaxprune._tree._structure import check_unique as check_unique
from jaxprune._tree._structure import check_untied as check_untied
from jaxprune._tree._structure import expanded as expanded
from jaxprune._tree._structure import first_difference as first_difference
from jaxprune._tree._structure import fit as fit
from jaxprune._tree._structure import is_function as is_function
from jaxprune._tree._values import check_finite as check_finite
from jaxprune._tree._values import check_worst as check_worst
from jaxprune._tree._values import negative as negative
from jaxprune._tree._values import worst as worst
from jaxprune._tree._where import WEIGHT_NAMES as WEIGHT_NAMES
from jaxprune._tree._where import Where as Where
from jaxprune._tree._where import default_where as default_where
from jaxprune._tree._where import prunable as prunable
