"""A run on the disk: checkpoints, what must not change between them, and records of phases."""

from jaxprune.training.checkpoints._checkpoints import Checkpoints as Checkpoints
from jaxprune.training.checkpoints._checkpoints import Preempted as Preempted
from jaxprune.training.checkpoints._checkpoints import Resumed as Resumed
from jaxprune.training.checkpoints._records import Left as Left
from jaxprune.training.checkpoints._records import PhaseRecord as PhaseRecord
from jaxprune.training.checkpoints._records import RunResult as RunResult
