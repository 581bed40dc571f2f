"""A total shared out over leaves in given proportions, within limits, exactly.

Leaf i keeps ``clip(e * a_i, low_i, high_i)`` of its entries, with the one ``e`` for which these add
up to the total. As a function of the total that is linear between breakpoints, where a leaf reaches
a limit. All breakpoints are known in advance: find the segment of the total, share out what its
unlimited leaves get, and round by largest remainder. A total known on the host needs one segment,
found by bisection; a traced one the table of all.

The shares are fixed-point integers and the same arithmetic is written twice: in Python integers for
a total known on the host, and in 16-bit digits for a traced one. Both give the same counts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._selection import limbs

_BITS = 62  # of a share's fraction: totals stay below 2**62, so a share errs by less than one


class Segment(NamedTuple):
    """The totals between two breakpoints.

    Attributes:
      start: the first total of this segment.
      base: what leaves at a limit keep; 0 for the others.
      share: of the rest, in units of 2**-62; 0 for leaves at a limit.
      high: upper limits.
    """

    start: int
    base: tuple[int, ...]
    share: tuple[int, ...]
    high: tuple[int, ...]


class Shares(NamedTuple):
    """A solved allocation; see `solve`.

    Attributes:
      weights: the proportions, as integers.
      low: the fewest entries that each leaf keeps.
      high: the most.
      bends: the breakpoints of ``e`` in rising order, as pairs ``(x, weight)`` worth x / weight.
    """

    weights: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    bends: tuple[tuple[int, int], ...]

    def of(self, total: int) -> tuple[int, ...]:
        """What each leaf keeps of a total known on the host."""
        first, last = 0, len(self.bends) - 1
        while first < last:
            middle = (first + last + 1) // 2
            if self._start(middle) <= total:
                first = middle
            else:
                last = middle - 1
        return shared_out(self._segment(first), total)

    def of_traced(self, total: jax.Array) -> jax.Array:
        """What each leaf keeps of a traced total in limbs ``[2]``, as limbs ``[leaves, 2]``."""
        return shared_out_traced(self.segments(), total)

    def segments(self) -> tuple[Segment, ...]:
        """The table of all segments; its size is quadratic in the leaves."""
        return tuple(map(self._segment, range(len(self.bends))))

    def _start(self, i: int) -> int:
        if i == 0:
            return 0
        x, weight = self.bends[i]
        clipped = (
            min(max(x * w, lo * weight), hi * weight)
            for w, lo, hi in zip(self.weights, self.low, self.high, strict=True)
        )
        return -(-sum(clipped) // weight)

    def _segment(self, i: int) -> Segment:
        x, weight = self.bends[i]
        leaves = list(zip(self.weights, self.low, self.high, strict=True))
        free = [lo * weight <= x * w < hi * weight for w, lo, hi in leaves]
        whole = sum(w for w, f in zip(self.weights, free, strict=True) if f)
        return Segment(
            start=self._start(i),
            base=tuple(
                0 if f else lo if x * w < lo * weight else hi
                for (w, lo, hi), f in zip(leaves, free, strict=True)
            ),
            share=tuple(
                (w << _BITS) // whole if f else 0 for w, f in zip(self.weights, free, strict=True)
            ),
            high=self.high,
        )


def shared_out(segment: Segment, total: int) -> tuple[int, ...]:
    """What each leaf keeps of a total that lies in a segment."""
    rest = total - sum(segment.base)
    products = [rest * share for share in segment.share]
    kept = [b + (p >> _BITS) for b, p in zip(segment.base, products, strict=True)]
    remainders = [_rounded((p & ((1 << _BITS) - 1)) >> 32) for p in products]
    open_ = [
        share > 0 and k < high
        for share, k, high in zip(segment.share, kept, segment.high, strict=True)
    ]
    order = sorted(range(len(kept)), key=lambda i: (not open_[i], -remainders[i], i))
    for i in order[: total - sum(kept)]:
        kept[i] += 1
    return tuple(kept)


def shared_out_traced(segments: Sequence[Segment], total: jax.Array) -> jax.Array:
    """What each leaf keeps of a traced total in limbs ``[2]``, as limbs ``[leaves, 2]``."""
    starts = _as_limbs([s.start for s in segments])
    here = jnp.sum(~limbs.less(total[None], starts), dtype=jnp.int32) - 1
    base = _as_limbs([s.base for s in segments])[here]
    high = _as_limbs(segments[0].high)  # of every segment
    share = _as_limbs([s.share for s in segments])[here]
    whole = np.zeros(len(segments[0].base), np.int32)  # one segment: all leaves
    rest = limbs.subtract(total, limbs.sum_segments(base, whole, 1)[0])

    product = _multiply(limbs.to_digits(rest), limbs.to_digits(share))
    # 62 bits are three digits and 14 bits.
    quotient = jnp.stack(
        [((product[..., 3 + i] >> 14) | (product[..., 4 + i] << 2)) & 0xFFFF for i in range(4)],
        axis=-1,
    )
    kept = limbs.add(base, limbs.from_digits(quotient))
    remainder = limbs.from_digits(product[..., :4].at[..., 3].set(product[..., 3] & 0x3FFF))
    open_ = jnp.any(share > 0, axis=-1) & limbs.less(kept, high)
    remainder = _rounded(remainder[:, 0])
    index = np.arange(len(whole))
    larger = (remainder[:, None] < remainder[None]) | (
        (remainder[:, None] == remainder[None]) & (index[:, None] > index[None])
    )
    rank = jnp.sum(larger & open_[None], axis=1, dtype=jnp.uint32)
    missing = limbs.subtract(total, limbs.sum_segments(kept, whole, 1)[0])
    more = open_ & limbs.less(limbs.one_limb(rank), missing[None])
    return limbs.add(kept, limbs.one_limb(more.astype(jnp.uint32)))


def _as_limbs(values: Any) -> jax.Array:
    """Python integers, nested, as uint32 ``[..., 2]``."""
    wide = np.array(values, np.uint64)
    return jnp.asarray(np.stack([wide >> 32, wide & 0xFFFFFFFF], axis=-1).astype(np.uint32))


def _rounded(high: Any) -> Any:
    """The upper 30 bits of a remainder, rounded to 20: equal remainders stay equal."""
    return (high + 512) >> 10


def solve(proportions: Sequence[float], low: Sequence[int], high: Sequence[int]) -> Shares:
    """Finds the breakpoints between which totals are shared out linearly.

    Args:
      proportions: positive numbers a_i; what leaf i gets is proportional to its own.
      low: the fewest entries that each leaf keeps.
      high: the most.

    Returns:
      The solution. It answers for totals from ``sum(low)`` to ``sum(high)``.

    Raises:
      ValueError: if a proportion is not positive and finite.
    """
    a = tuple(map(float, proportions))
    for x in a:
        if not 0.0 < x < math.inf:
            raise ValueError(
                f"no leaf can get a share in proportion to {x}: densities must be positive and "
                "finite. Of `erk`, pass a power closer to 1."
            )
    return _solve(a, tuple(map(int, low)), tuple(map(int, high)))


@functools.lru_cache(maxsize=64)  # every step of a run asks for the same leaves
def _solve(proportions: tuple[float, ...], low: tuple[int, ...], high: tuple[int, ...]) -> Shares:
    # Integers: no total may fall between two segments because a float was rounded.
    ratios = [a.as_integer_ratio() for a in proportions]
    scale = max(denominator for _, denominator in ratios)  # all are powers of two
    weights = tuple(a * (scale // denominator) for a, denominator in ratios)
    pairs = {(x, w) for limit in (low, high) for x, w in zip(limit, weights, strict=True)}
    bends: list[tuple[int, int]] = []
    for pair in sorted(pairs, key=functools.cmp_to_key(_difference)):
        if not bends or _difference(bends[-1], pair):
            bends.append(pair)
    return Shares(weights, low, high, tuple(bends))


def _difference(a: tuple[int, int], b: tuple[int, int]) -> int:
    """Has the sign of ``a[0] / a[1] - b[0] / b[1]``."""
    return a[0] * b[1] - b[0] * a[1]


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product of numbers in 16-bit digits, ``[..., 4] x [..., 4] -> [..., 8]``, lowest first."""
    a, b = jnp.broadcast_arrays(a[None] if a.ndim < b.ndim else a, b)
    columns = [jnp.zeros_like(a[..., 0]) for _ in range(9)]
    for i in range(4):
        for j in range(4):
            part = a[..., i] * b[..., j]
            columns[i + j] = columns[i + j] + (part & 0xFFFF)
            columns[i + j + 1] = columns[i + j + 1] + (part >> 16)
    digits, carry = [], jnp.zeros_like(a[..., 0])
    for column in columns[:8]:
        value = column + carry
        digits.append(value & 0xFFFF)
        carry = value >> 16
    return jnp.stack(digits, axis=-1)
