"""One training step and many: the state, the compiled step, loops over it, evaluation."""

from jaxprune.training.steps._distilled import Taught as Taught
from jaxprune.training.steps._distilled import distilled as distilled
from jaxprune.training.steps._distilled import of_student as of_student
from jaxprune.training.steps._evaluate import Evaluate as Evaluate
from jaxprune.training.steps._evaluate import make_evaluate as make_evaluate
from jaxprune.training.steps._evaluate import make_recalibrate as make_recalibrate
from jaxprune.training.steps._evaluate import make_stream_evaluate as make_stream_evaluate
from jaxprune.training.steps._loop import TrainLoop as TrainLoop
from jaxprune.training.steps._loop import join_metrics as join_metrics
from jaxprune.training.steps._loop import make_loop as make_loop
from jaxprune.training.steps._nnx import NnxNetwork as NnxNetwork
from jaxprune.training.steps._nnx import from_nnx as from_nnx
from jaxprune.training.steps._pmap_step import make_pmap_train_step as make_pmap_train_step
from jaxprune.training.steps._sharding import fully_sharded as fully_sharded
from jaxprune.training.steps._sharding import replicated as replicated
from jaxprune.training.steps._state import TrainState as TrainState
from jaxprune.training.steps._step import TrainStep as TrainStep
from jaxprune.training.steps._step import make_train_step as make_train_step
from jaxprune.training.steps._stream_loop import make_stream_loop as make_stream_loop
