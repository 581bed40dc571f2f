"""A function as a list of steps that can be run a piece at a time.

`flatten` writes a function out: calls are opened, loops over layers unrolled. `sites_of` finds the
products with weights that can be pruned, and which entries of a leaf each of them uses. `Runner`
evaluates the steps between two places for every batch, with the weights as they are by then, and
compiles pieces that look alike once.
"""

from jaxprune.layerwise.program._flatten import Program as Program
from jaxprune.layerwise.program._flatten import flatten as flatten
from jaxprune.layerwise.program._runner import Runner as Runner
from jaxprune.layerwise.program._sites import Site as Site
from jaxprune.layerwise.program._sites import sites_of as sites_of
