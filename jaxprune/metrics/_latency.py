"""How long a function takes on this machine, alone or beside another one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from jaxprune._checks import check_number, check_steps
from jaxprune.metrics._median import MedianInterval, median_interval
from jaxprune.metrics._timing import Side

Timed: TypeAlias = tuple[Callable[..., Any], Sequence[Any]]


class Latency(NamedTuple):
    """The time of one call, in seconds.

    Attributes:
      median_seconds: the median of all timings.
      low: lower end of an interval that holds the true median with a probability of 95 %.
      high: its upper end.
      repeats: the number of timings.
      calls: calls in each timing, whose mean it is.
      compile_seconds: tracing, lowering and compilation; `None` for a function that was compiled
        or jitted before.
    """

    median_seconds: float
    low: float
    high: float
    repeats: int
    calls: int
    compile_seconds: float | None

    def examples_per_second(self, batch_size: int) -> float:
        """How many examples a second go through a function of ``batch_size`` examples a call."""
        return check_steps("batch_size", batch_size) / self.median_seconds


class LatencyComparison(NamedTuple):
    """What `compare_latency` returns.

    Attributes:
      dense: the time of the one function.
      small: that of the other.
      speedup: dense over small, the median of the ratios of all pairs and its interval of 95 %:
        above 1, the small one is faster.
      batch_size: examples a call.
      theoretical_speedup: what counting promises, if it was given.
    """

    dense: Latency
    small: Latency
    speedup: MedianInterval
    batch_size: int
    theoretical_speedup: float | None = None

    def __str__(self) -> str:
        """Times, examples a second and the speedup, next to the theoretical one."""
        lines = [
            f"{name}: {1000 * side.median_seconds:.3g} ms, "
            f"{side.examples_per_second(self.batch_size):,.0f} examples/s"
            for name, side in (("dense", self.dense), ("small", self.small))
        ]
        ratio = self.speedup
        line = f"speedup: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        if self.theoretical_speedup is not None:
            line += f", in theory {self.theoretical_speedup:.2f}"
        return "\n".join([*lines, line])

    @property
    def dense_examples_per_second(self) -> float:
        """Examples a second through the dense function."""
        return self.dense.examples_per_second(self.batch_size)

    @property
    def small_examples_per_second(self) -> float:
        """Examples a second through the small function."""
        return self.small.examples_per_second(self.batch_size)


def latency(
    f: Callable[..., Any], *args: Any, repeats: int = 25, min_seconds: float = 0.01
) -> Latency:
    """Measures how long one call of ``f(*args)`` takes.

    The function is compiled for the arguments and called a few times untimed. Then ``repeats``
    timings are taken, each over as many calls in a row as take ``min_seconds``; every call is
    waited for, with `jax.block_until_ready`, before the next one. Their median is given, with an
    interval from order statistics, because times have outliers on one side. The garbage collector
    rests meanwhile.

    Weights that a function closes over are constants to the compiler, which may compute with them
    beforehand: pass them as arguments.

    Args:
      f: a function of JAX arrays, jitted here if it is not jitted or compiled already.
      *args: its arguments; they are used again in each call, so ``f`` may not donate them.
      repeats: timings, 6 or more.
      min_seconds: how long a timing takes at least, as far as a few calls can tell; 0 for one call
        a timing.

    Returns:
      The time of one call.

    Raises:
      TypeError: if ``f`` is no function, or a number of the wrong kind.
      ValueError: if ``repeats`` is too small for an interval, or ``min_seconds`` negative; if ``f``
        has donated its arguments.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> found = jp.metrics.latency(jnp.dot, jnp.ones((8, 8)), jnp.ones((8, 8)), min_seconds=0)
      >>> found.repeats, found.calls, 0 < found.low <= found.median_seconds <= found.high
      (25, 1, True)
    """
    _check(repeats, min_seconds)
    side = Side("f", f, args, min_seconds)
    return _latency(side, [side.seconds() for _ in range(repeats)])


def compare_latency(
    *,
    dense: Timed,
    small: Timed,
    batch_size: int = 1,
    repeats: int = 25,
    min_seconds: float = 0.01,
    seed: int = 0,
    theoretical_speedup: float | None = None,
) -> LatencyComparison:
    """Measures how much faster one function is than another, say a shrunk network than the dense.

    As `latency`, for both in turns: a disturbance of the machine lasts longer than a pair of
    timings, so it hits both sides of it, and the ratio of a pair is steadier than the ratio of two
    medians. Which of a pair comes first is drawn at random.

    Args:
      dense: the one function and its arguments, ``(f, (params, x))``.
      small: the other one and its own.
      batch_size: examples a call, of both.
      repeats: pairs of timings, 6 or more.
      min_seconds: how long a timing takes at least, as for `latency`.
      seed: of the order.
      theoretical_speedup: to be printed beside the measured one: the MACs of the one over those of
        the other, see `jaxprune.metrics.flops`.

    Returns:
      Both times, the speedup, and examples a second; printed, a line each.

    Raises:
      TypeError: as `latency`, or if a side is no pair of a function and its arguments.
      ValueError: as `latency`, or if ``batch_size`` is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> x = jnp.ones((4, 64))
      >>> found = jp.metrics.compare_latency(
      ...     dense=(jnp.dot, (x, jnp.ones((64, 64)))),
      ...     small=(jnp.dot, (x, jnp.ones((64, 16)))),
      ...     batch_size=4,
      ...     min_seconds=0,
      ... )
      >>> found.speedup.low <= found.speedup.median <= found.speedup.high
      True
      >>> found.small_examples_per_second == 4 / found.small.median_seconds
      True
    """
    check_steps("batch_size", batch_size)
    _check(repeats, min_seconds)
    sides = []
    for name, given in (("dense", dense), ("small", small)):
        if (
            not isinstance(given, tuple)
            or len(given) != 2
            or not isinstance(given[1], tuple | list)
        ):
            raise TypeError(
                f"{name} is a function and its arguments, (f, (params, x)); got {given!r:.80}."
            )
        sides.append(Side(name, *given, min_seconds))
    drawn = random.Random(seed)
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for i in drawn.sample((0, 1), 2):
            seconds[i].append(sides[i].seconds())
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    times = [_latency(side, own) for side, own in zip(sides, seconds, strict=True)]
    return LatencyComparison(
        times[0], times[1], median_interval(ratios), batch_size, theoretical_speedup
    )


def _latency(side: Side, seconds: Sequence[float]) -> Latency:
    median, low, high = median_interval(seconds)
    return Latency(median, low, high, len(seconds), side.calls, side.compile_seconds)


def _check(repeats: int, min_seconds: float) -> None:
    if check_steps("repeats", repeats) < 6:
        raise ValueError(f"repeats is {repeats}, but an interval of the median takes 6 timings.")
    check_number("min_seconds", min_seconds, low=0)
