"""Training with masks: states, compiled steps and loops, and the recipes IMP and BIMP."""

from jaxprune.training._bimp import bimp as bimp
from jaxprune.training._checkpoints import Checkpoints as Checkpoints
from jaxprune.training._checkpoints import Preempted as Preempted
from jaxprune.training._checkpoints import Resumed as Resumed
from jaxprune.training._evaluate import Evaluate as Evaluate
from jaxprune.training._evaluate import make_evaluate as make_evaluate
from jaxprune.training._evaluate import make_recalibrate as make_recalibrate
from jaxprune.training._evaluate import make_stream_evaluate as make_stream_evaluate
from jaxprune.training._fit import Prepared as Prepared
from jaxprune.training._fit import fit as fit
from jaxprune.training._fit import prepare as prepare
from jaxprune.training._imp import imp as imp
from jaxprune.training._loop import TrainLoop as TrainLoop
from jaxprune.training._loop import make_loop as make_loop
from jaxprune.training._pmap_step import make_pmap_train_step as make_pmap_train_step
from jaxprune.training._records import ImpResult as ImpResult
from jaxprune.training._records import PhaseRecord as PhaseRecord
from jaxprune.training._sharding import fully_sharded as fully_sharded
from jaxprune.training._sharding import replicated as replicated
from jaxprune.training._state import TrainState as TrainState
from jaxprune.training._step import TrainStep as TrainStep
from jaxprune.training._step import make_train_step as make_train_step
from jaxprune.training._stream_loop import make_stream_loop as make_stream_loop
from jaxprune.training._sweep import sweep as sweep
