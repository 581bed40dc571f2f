"""The k smallest of many arrays, found by counting. Knows arrays and integers, no path or mask.

The problem: of all numbers in some arrays, a *pool*, mark the k smallest, exactly k, and the same
ones on every device, for every dtype and sharding. Sorting would need all numbers in one place, and
two to six times their memory. Counting needs neither:

1. **Order.** Floats become unsigned integers that compare in the same order (`ordering`). So -0.0
   equals +0.0, NaN is the largest, denormals are told apart, and a few integers are left over for
   entries that are gone already or have to stay.
2. **Bracket.** The threshold is the largest key with at most k keys below it. It lies between the
   smallest and the largest key (`_bracket`). A *pass* (`_passes`) reads every number once. It
   counts how many lie below each of a few points inside the bracket: with 3 points the bracket
   gets 4 times narrower, and some 16 passes find one key among 2**32. Nothing is moved: each device
   counts what it holds (`_shards`), and only the counts are added up.
3. **Sample.** In large arrays a strided sample is searched first. It tells where the threshold
   nearly is, so a handful of passes over everything remain. Exact counts verify what the sample
   says: it decides how long the search takes, and never what it finds (`_smallest`).
4. **Ties.** Fewer than k keys may lie below the threshold. What is missing are entries equal to it,
   the first ones in C order. The position up to which they go is found by counting, too (`_ties`).
5. **Small arrays** are laid out as rows of one array (`_rows`), because a compiler takes some
   milliseconds for each array that a program counts in.

Counts pass 2**32 where networks are large, and compiled code has no 64-bit integers unless asked:
`limbs` adds and compares numbers of two 32-bit limbs.

`on_host` does the same with NumPy, for arrays in the memory of this process. It compiles nothing.
The two are tested against each other.
"""

from jaxprune._selection._passes import Leaf as Leaf
from jaxprune._selection._passes import Leaves as Leaves
from jaxprune._selection._passes import arrange as arrange
from jaxprune._selection._passes import count_each as count_each
from jaxprune._selection._passes import count_true as count_true
from jaxprune._selection._smallest import Selection as Selection
from jaxprune._selection._smallest import smallest as smallest
from jaxprune._selection._smallest import wide_dtype as wide_dtype
