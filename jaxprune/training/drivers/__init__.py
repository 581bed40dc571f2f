"""Whole runs: IMP and BIMP, a method for one phase, several runs at once."""

from jaxprune.training.drivers._bimp import bimp as bimp
from jaxprune.training.drivers._fit import Prepared as Prepared
from jaxprune.training.drivers._fit import fit as fit
from jaxprune.training.drivers._fit import prepare as prepare
from jaxprune.training.drivers._imp import imp as imp
from jaxprune.training.drivers._sweep import sweep as sweep
