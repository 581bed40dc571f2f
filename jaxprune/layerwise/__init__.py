"""Pruning after training: layer by layer, from what enters each.

`prune` goes through a network in the order of its program; `statistics` tells what enters its
products. Both read any JAX function. What they do at each layer can be used alone:

A layer computes ``y = x @ kernel``. How far a sparse kernel V is from the dense W on some data is
``sum |x W - x V|^2 = tr((W - V)^T G (W - V))``, in which the data appear only through their **Gram
matrix** ``G = sum x^T x``, [in, in]. `solve` makes a sparse kernel from W and G by one of several
**methods**, which are made by factories (`sparsegpt()`, `alps()`, ...) and hold their options;
`refit` sets the kept weights to the best for a given mask; `error` says how far one is.
"""

from jaxprune.layerwise._centred import bias_correction as bias_correction
from jaxprune.layerwise._centred import centred as centred
from jaxprune.layerwise._error import error as error
from jaxprune.layerwise._method import Method as Method
from jaxprune.layerwise._prune import WindowRecord as WindowRecord
from jaxprune.layerwise._prune import prune as prune
from jaxprune.layerwise._reconstruct import ReconstructionRecord as ReconstructionRecord
from jaxprune.layerwise._reconstruct import reconstruct as reconstruct
from jaxprune.layerwise._refit import refit as refit
from jaxprune.layerwise._solve import solve as solve
from jaxprune.layerwise._statistics import Statistics as Statistics
from jaxprune.layerwise._statistics import statistics as statistics
from jaxprune.layerwise.methods import METHODS as METHODS
from jaxprune.layerwise.methods import admm as admm
from jaxprune.layerwise.methods import alps as alps
from jaxprune.layerwise.methods import frank_wolfe as frank_wolfe
from jaxprune.layerwise.methods import ria as ria
from jaxprune.layerwise.methods import sparsegpt as sparsegpt
from jaxprune.layerwise.methods import stade as stade
from jaxprune.layerwise.methods import swap as swap
from jaxprune.layerwise.methods import swaps as swaps
from jaxprune.layerwise.methods import wanda as wanda
