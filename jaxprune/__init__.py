"""jaxprune: prune neural networks in JAX, and retrain them well.

Everything works on any pytree of arrays. A *score* says how important a weight is (higher
stays), a *mask* which weights stay (True = kept), *sparsity* which fraction is removed. Pure
functions compute masks, retraining schedules are optax schedules, and compiled training steps
take masks and learning rates as data, so that a whole multi-cycle run compiles once.
"""

from jaxprune import adapters as adapters
from jaxprune import layerwise as layerwise
from jaxprune import masks as masks
from jaxprune import methods as methods
from jaxprune import metrics as metrics
from jaxprune import parametrizations as parametrizations
from jaxprune import plots as plots
from jaxprune import schedules as schedules
from jaxprune import scores as scores
from jaxprune import structured as structured
from jaxprune import training as training
from jaxprune import transforms as transforms
from jaxprune._network import load as load
from jaxprune._network import save as save
from jaxprune._tree import default_where as default_where
from jaxprune._version import __version__ as __version__
from jaxprune.masks import apply_mask as apply_mask
from jaxprune.masks import prune as prune
from jaxprune.masks import read_settings as read_settings
from jaxprune.metrics import sparsity as sparsity
from jaxprune.transforms import assert_sparse as assert_sparse
