"""How important is a channel: one number a unit of every group."""

from jaxprune.structured.scores._activations import Read as Read
from jaxprune.structured.scores._activations import activation as activation
from jaxprune.structured.scores._activations import fluctuation as fluctuation
from jaxprune.structured.scores._activations import lost_output as lost_output
from jaxprune.structured.scores._activations import reads as reads
from jaxprune.structured.scores._average import average as average
from jaxprune.structured.scores._geometric_median import geometric_median as geometric_median
from jaxprune.structured.scores._hessian import hessian as hessian
from jaxprune.structured.scores._hessian import hessian_diagonal as hessian_diagonal
from jaxprune.structured.scores._hrank import hrank as hrank
from jaxprune.structured.scores._lamp import lamp as lamp
from jaxprune.structured.scores._magnitude import magnitude as magnitude
from jaxprune.structured.scores._norm_scale import norm_scale as norm_scale
from jaxprune.structured.scores._random import random as random
from jaxprune.structured.scores._taylor import taylor as taylor
