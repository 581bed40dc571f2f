"""Training with masks: states, compiled steps and loops, and the recipes IMP and BIMP."""

from jaxprune.training.checkpoints import Checkpoints as Checkpoints
from jaxprune.training.checkpoints import PhaseRecord as PhaseRecord
from jaxprune.training.checkpoints import Preempted as Preempted
from jaxprune.training.checkpoints import Resumed as Resumed
from jaxprune.training.checkpoints import RunResult as RunResult
from jaxprune.training.drivers import Prepared as Prepared
from jaxprune.training.drivers import bimp as bimp
from jaxprune.training.drivers import fit as fit
from jaxprune.training.drivers import imp as imp
from jaxprune.training.drivers import prepare as prepare
from jaxprune.training.drivers import sweep as sweep
from jaxprune.training.steps import Evaluate as Evaluate
from jaxprune.training.steps import TrainLoop as TrainLoop
from jaxprune.training.steps import TrainState as TrainState
from jaxprune.training.steps import TrainStep as TrainStep
from jaxprune.training.steps import fully_sharded as fully_sharded
from jaxprune.training.steps import join_metrics as join_metrics
from jaxprune.training.steps import make_evaluate as make_evaluate
from jaxprune.training.steps import make_loop as make_loop
from jaxprune.training.steps import make_pmap_train_step as make_pmap_train_step
from jaxprune.training.steps import make_recalibrate as make_recalibrate
from jaxprune.training.steps import make_stream_evaluate as make_stream_evaluate
from jaxprune.training.steps import make_stream_loop as make_stream_loop
from jaxprune.training.steps import make_train_step as make_train_step
from jaxprune.training.steps import replicated as replicated
