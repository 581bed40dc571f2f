"""Retraining with few parameters: small matrices beside pruned weights that stay as they are."""

from jaxprune.adapters._adapters import Adapters as Adapters
from jaxprune.adapters._adapters import Change as Change
from jaxprune.adapters._adapters import Factors as Factors
from jaxprune.adapters._lora import lora as lora
from jaxprune.adapters._lora import mask_lora as mask_lora
from jaxprune.adapters._merge import effective as effective
from jaxprune.adapters._merge import merge as merge
from jaxprune.adapters._scale_lora import scale_lora as scale_lora
from jaxprune.adapters._training import AdaptedNetwork as AdaptedNetwork
from jaxprune.adapters._training import Frozen as Frozen
from jaxprune.adapters._training import adapted as adapted
