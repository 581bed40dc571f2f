"""Grids of runs. Only what a worker needs imports JAX."""

from experiments.sweeps._claims import Claims as Claims
from experiments.sweeps._folder import SweepFolder as SweepFolder
from experiments.sweeps._sweep import Run as Run
from experiments.sweeps._sweep import Sweep as Sweep
from experiments.sweeps._sweep import changed as changed
from experiments.sweeps._sweep import runs as runs
