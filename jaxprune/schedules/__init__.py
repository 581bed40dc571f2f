"""Learning rates for retraining a pruned network, and the sparsities of its cycles.

Two notions carry this folder:

* a **retraining schedule** is made from the schedule the dense network was trained with
  (``pretraining``) and from two budgets in steps. Each is written once, on the host, as a table of
  one learning rate per retraining step, and returned as an `optax.Schedule` that looks the count
  up: counts past the end give the last rate, negative counts the first;
* a **sparsity schedule** says how much is pruned at the end of each cycle or at each step.

Letters, in every docstring: T = ``pretraining_steps``, W = ``pretraining_warmup_steps``,
N = ``retraining_steps``, w = retraining warm-up steps, K = N - w, i = 0 ... N - 1 the retraining
step, η_max = the highest pretraining rate, η_min = the lowest one after step W.

To add a schedule, copy the file of the one nearest to it and give it a name in `RETRAINING`.
"""

from jaxprune.schedules._allr import allr as allr
from jaxprune.schedules._allr_discount import allr_discount as allr_discount
from jaxprune.schedules._allr_discount import allr_ratio as allr_ratio
from jaxprune.schedules._clr import clr as clr
from jaxprune.schedules._ft import ft as ft
from jaxprune.schedules._llr import llr as llr
from jaxprune.schedules._lrw import lrw as lrw
from jaxprune.schedules._retraining import RETRAINING as RETRAINING
from jaxprune.schedules._retraining import retraining as retraining
from jaxprune.schedules._retraining_after import retraining_after as retraining_after
from jaxprune.schedules._slr import slr as slr
from jaxprune.schedules._sparsities import cubic as cubic
from jaxprune.schedules._sparsities import gmp_targets as gmp_targets
from jaxprune.schedules._sparsities import imp_sparsities as imp_sparsities
from jaxprune.schedules._sparsities import twenty_percent_sparsities as twenty_percent_sparsities
from jaxprune.schedules._tunable import constant as constant
from jaxprune.schedules._tunable import cosine as cosine
from jaxprune.schedules._tunable import linear as linear
from jaxprune.schedules._tunable import stepped as stepped
