"""Whole runs: IMP of weights or of channels, BIMP, one phase of a method, several runs at once."""

from jaxprune.training.drivers._bimp import bimp as bimp
from jaxprune.training.drivers._channels import Network as Network
from jaxprune.training.drivers._channels import Shrink as Shrink
from jaxprune.training.drivers._fit import Prepared as Prepared
from jaxprune.training.drivers._fit import fit as fit
from jaxprune.training.drivers._fit import prepare as prepare
from jaxprune.training.drivers._imp import imp as imp
from jaxprune.training.drivers._soup import greedy_soup as greedy_soup
from jaxprune.training.drivers._soup import soup as soup
from jaxprune.training.drivers._structured_imp import StructuredResult as StructuredResult
from jaxprune.training.drivers._structured_imp import structured_imp as structured_imp
from jaxprune.training.drivers._sweep import sweep as sweep
