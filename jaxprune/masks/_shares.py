"""A total shared out over leaves in given proportions, within limits, exactly.

Leaf i keeps ``clip(e * a_i, low_i, high_i)`` of its entries, with the one ``e`` for which these add
up to the total. As a function of the total that is linear between breakpoints, where a leaf reaches
a limit. All breakpoints are known in advance, so the solution is a table: find the segment of the
total, share out what its unlimited leaves get, and round by largest remainder.

The shares are fixed-point integers and the same arithmetic is written twice: in Python integers for
a total known on the host, and in 16-bit digits for a traced one. Both give the same counts.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.masks import _limbs

_BITS = 62  # of a share's fraction: totals stay below 2**62, so a share errs by less than one


class _Segment(NamedTuple):
    start: int  # the first total of this segment
    base: tuple[int, ...]  # what leaves at a limit keep; 0 for the others
    share: tuple[int, ...]  # of the rest, in units of 2**-62; 0 for leaves at a limit
    high: tuple[int, ...]  # upper limits


class Shares(NamedTuple):
    """A solved allocation; see `solve`."""

    segments: tuple[_Segment, ...]

    def of(self, total: int) -> tuple[int, ...]:
        """What each leaf keeps of a total known on the host."""
        segment = next(s for s in reversed(self.segments) if s.start <= total)
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

    def of_traced(self, total: jax.Array) -> jax.Array:
        """What each leaf keeps of a traced total in limbs ``[2]``, as limbs ``[leaves, 2]``."""
        starts = jnp.asarray(_limbs.stack_limbs([s.start for s in self.segments]))
        here = jnp.sum(~_limbs.less(total[None], starts), dtype=jnp.int32) - 1
        base = jnp.asarray(np.stack([_limbs.stack_limbs(s.base) for s in self.segments]))[here]
        high = jnp.asarray(np.stack([_limbs.stack_limbs(s.high) for s in self.segments]))[here]
        share = jnp.asarray(np.stack([_limbs.stack_limbs(s.share) for s in self.segments]))[here]
        whole = np.zeros(len(self.segments[0].base), np.int32)  # one segment: all leaves
        rest = _limbs.subtract(total, _limbs.sum_segments(base, whole, 1)[0])

        product = _multiply(_limbs.to_digits(rest), _limbs.to_digits(share))
        # 62 bits are three digits and 14 bits.
        quotient = jnp.stack(
            [((product[..., 3 + i] >> 14) | (product[..., 4 + i] << 2)) & 0xFFFF for i in range(4)],
            axis=-1,
        )
        kept = _limbs.add(base, _limbs.from_digits(quotient))
        remainder = _limbs.from_digits(product[..., :4].at[..., 3].set(product[..., 3] & 0x3FFF))
        open_ = jnp.any(share > 0, axis=-1) & _limbs.less(kept, high)
        remainder = _rounded(remainder[:, 0])
        index = np.arange(len(whole))
        larger = (remainder[:, None] < remainder[None]) | (
            (remainder[:, None] == remainder[None]) & (index[:, None] > index[None])
        )
        rank = jnp.sum(larger & open_[None], axis=1, dtype=jnp.uint32)
        missing = _limbs.subtract(total, _limbs.sum_segments(kept, whole, 1)[0])
        more = open_ & _limbs.less(_limbs.one_limb(rank), missing[None])
        return _limbs.add(kept, _limbs.one_limb(more.astype(jnp.uint32)))


def _rounded(high: Any) -> Any:
    """The upper 30 bits of a remainder, rounded to 20: equal remainders stay equal."""
    return (high + 512) >> 10


def solve(proportions: Sequence[float], low: Sequence[int], high: Sequence[int]) -> Shares:
    """Tabulates how totals are shared out.

    Args:
      proportions: positive numbers a_i; what leaf i gets is proportional to its own.
      low: the fewest entries that each leaf keeps.
      high: the most.

    Returns:
      The table. It answers for totals from ``sum(low)`` to ``sum(high)``.
    """
    # Rational numbers: no total may fall between two segments because a float was rounded.
    a = [Fraction(float(x)) for x in proportions]
    bends = sorted(
        {Fraction(x) / p for limit in (low, high) for x, p in zip(limit, a, strict=True)}
    )
    segments = []
    for i, bend in enumerate(bends):
        free = [
            Fraction(lo) / p <= bend < Fraction(hi) / p
            for lo, hi, p in zip(low, high, a, strict=True)
        ]
        kept = [min(max(bend * p, lo), hi) for lo, hi, p in zip(low, high, a, strict=True)]
        whole = sum(p for p, f in zip(a, free, strict=True) if f)
        segments.append(
            _Segment(
                start=0 if i == 0 else -(-sum(kept) // 1),
                base=tuple(0 if f else int(k) for k, f in zip(kept, free, strict=True)),
                share=tuple(
                    int(p / whole * (1 << _BITS)) if f else 0 for p, f in zip(a, free, strict=True)
                ),
                high=tuple(high),
            )
        )
    return Shares(tuple(segments))


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
