"""Recipes: each published method as transform, parametrization, final prune and defaults.

A recipe is a function from hyperparameters to a `Method`, a NamedTuple of public parts. The
iterative methods IMP and BIMP, which alternate pruning and retraining, are drivers instead:
`jaxprune.training.imp` and `jaxprune.training.bimp`.

To add a method, copy the file of the one nearest to it and give it a name in `METHODS`. Spell its
options out in its signature.
"""

from jaxprune.methods._ac_dc import ac_dc as ac_dc
from jaxprune.methods._cs import cs as cs
from jaxprune.methods._dense import dense as dense
from jaxprune.methods._dnw import dnw as dnw
from jaxprune.methods._dpf import dpf as dpf
from jaxprune.methods._dst import dst as dst
from jaxprune.methods._gmp import gmp as gmp
from jaxprune.methods._gmp_recover import gmp_recover as gmp_recover
from jaxprune.methods._gsm import gsm as gsm
from jaxprune.methods._lc import lc as lc
from jaxprune.methods._method import Method as Method
from jaxprune.methods._random import random as random
from jaxprune.methods._rigl import rigl as rigl
from jaxprune.methods._set import set_ as set_
from jaxprune.methods._sfp import sfp as sfp
from jaxprune.methods._sr_ste import sr_ste as sr_ste
from jaxprune.methods._static import static as static
from jaxprune.methods._str import str_ as str_

METHODS = {
    "dense": dense,
    "random": random,
    "gmp": gmp,
    "gmp_recover": gmp_recover,
    "gsm": gsm,
    "lc": lc,
    "dpf": dpf,
    "dnw": dnw,
    "str": str_,
    "cs": cs,
    "dst": dst,
    "sr_ste": sr_ste,
    "rigl": rigl,
    "set": set_,
    "static": static,
    "ac_dc": ac_dc,
    "sfp": sfp,
}
"""The recipes by their names on a command line.

A method is registered here and nowhere else. Commands, tests and tables read its name from here
and its options from its signature.
"""
