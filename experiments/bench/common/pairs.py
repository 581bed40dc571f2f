"""Two compiled steps timed side by side, and what can be said of the ratio of their times."""

import gc
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxprune.metrics import MedianInterval, median_interval


class Runner(NamedTuple):
    """A compiled step that is run again and again."""

    step: Callable[[Any], Any]  # ``step(carry) -> carry``; the carry may be donated
    carry: Any  # what the first step gets


class Pairs(NamedTuple):
    """Seconds a step of both sides of every pair, in the order in which the pairs were run."""

    base: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def ratio(self) -> MedianInterval:
        """Other over base."""
        return median_interval([b / a for a, b in zip(self.base, self.other, strict=True)])


def interleaved(
    base: str, runners: Mapping[str, Runner], *, pairs: int, block_seconds: float, seed: int
) -> tuple[dict[str, Pairs], dict[str, Any]]:
    """Times every runner in pairs with one of them.

    A disturbance of the machine lasts longer than a pair, so it hits both sides of it. In each of
    ``pairs`` rounds the others come in random order, and in each pair either side first at random.
    A side is a block of steps, as many for all, run without waiting in between.

    Args:
      base: the runner that the others are compared with.
      runners: by name; each runs a few steps untimed at first.
      pairs: rounds.
      block_seconds: how long a block of the base takes at least.
      seed: of the orders.

    Returns:
      By name the times, without ``base``; and by name the carries after the last step.
    """
    carries = {}

    def block(name: str, steps: int) -> float:
        step, carry = runners[name].step, carries.pop(name)
        gc.disable()
        begin = time.perf_counter()
        for _ in range(steps):
            carry = step(carry)
        jax.block_until_ready(carry)
        elapsed = time.perf_counter() - begin
        gc.enable()
        carries[name] = carry
        return elapsed / steps

    for name, runner in runners.items():
        carries[name] = runner.carry
        block(name, 2)
    steps = max(1, math.ceil(block_seconds / min(block(base, 1) for _ in range(3))))
    drawn = random.Random(seed)
    others = [name for name in runners if name != base]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
    gc.collect()
    for _ in range(pairs):
        for name in drawn.sample(others, len(others)):
            if drawn.random() < 0.5:
                first = block(base, steps)
                seconds[name].append((first, block(name, steps)))
            else:
                second = block(name, steps)
                seconds[name].append((block(base, steps), second))
    return {
        name: Pairs(tuple(a for a, _ in both), tuple(b for _, b in both))
        for name, both in seconds.items()
    }, carries


def alone(base: Runner, other: Runner, *, runs: int) -> tuple[Pairs, Any]:
    """Times single steps in pairs, each from a copy of the same carry.

    Args:
      base: one step and its carry, which is kept.
      other: another one.
      runs: pairs, after one untimed.

    Returns:
      The seconds, and the last result of ``other``.
    """
    seconds, result = [], None
    for _ in range(runs + 1):
        pair = []
        for runner in (base, other):
            carry = jax.block_until_ready(jax.tree.map(lambda x: x.copy(), runner.carry))
            begin = time.perf_counter()
            result = jax.block_until_ready(runner.step(carry))
            pair.append(time.perf_counter() - begin)
        seconds.append(pair)
    return Pairs(tuple(a for a, _ in seconds[1:]), tuple(b for _, b in seconds[1:])), result


def copy_bytes_per_second(size: int) -> float:
    """Bytes read and written in a second when ``size`` bytes are copied; the best of 7."""
    copy = jax.jit(lambda x: x + 1)
    x = jax.numpy.zeros((size // 4,), jax.numpy.float32)
    jax.block_until_ready(copy(x))
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        jax.block_until_ready(copy(x))
        seconds.append(time.perf_counter() - begin)
    return 2 * size / min(seconds)
