"""Pictures of runs, masks and results, by matplotlib: ``pip install "jaxprune[plots]"``.

Every function returns a figure, which a notebook shows and ``figure.savefig("run.png")`` writes;
with ``axes`` it draws into axes of your own and returns their figure. None touches `pyplot`: no
state is kept and nothing has to be closed. matplotlib is imported when a picture is drawn.
"""

from jaxprune.plots._layers import in_natural_order as in_natural_order
from jaxprune.plots._layers import layers as layers
from jaxprune.plots._mask import mask as mask
from jaxprune.plots._overlap import overlap as overlap
from jaxprune.plots._rates import learning_rates as learning_rates
from jaxprune.plots._results import over_sparsity as over_sparsity
from jaxprune.plots._run import Curves as Curves
from jaxprune.plots._run import accuracy as accuracy
from jaxprune.plots._run import learning_rate as learning_rate
from jaxprune.plots._run import run as run
from jaxprune.plots._style import COLOURS as COLOURS
from jaxprune.plots._style import figure as figure
from jaxprune.plots._weights import weights as weights
