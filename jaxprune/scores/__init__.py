"""How important is a weight. A score tree looks like the parameters; higher stays."""

from jaxprune.scores._magnitude import magnitude as magnitude
from jaxprune.scores._random import random as random
