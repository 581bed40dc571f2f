"""Reading programs: the jaxpr of any function, without hooks in a framework.

`walk` goes through the equations, and `KINDS` says which primitives hold functions; all who read
programs use these two. On top, `products` and `accumulate` find which matrix products use which
parameter.
"""

from jaxprune._jaxpr._products import Contribution as Contribution
from jaxprune._jaxpr._products import Product as Product
from jaxprune._jaxpr._products import Tap as Tap
from jaxprune._jaxpr._products import accumulate as accumulate
from jaxprune._jaxpr._products import products as products
from jaxprune._jaxpr._walk import CALLS as CALLS
from jaxprune._jaxpr._walk import KINDS as KINDS
from jaxprune._jaxpr._walk import Kind as Kind
from jaxprune._jaxpr._walk import aval as aval
from jaxprune._jaxpr._walk import bind as bind
from jaxprune._jaxpr._walk import functions_in as functions_in
from jaxprune._jaxpr._walk import held as held
from jaxprune._jaxpr._walk import opened as opened
from jaxprune._jaxpr._walk import scan_counts as scan_counts
from jaxprune._jaxpr._walk import walk as walk
