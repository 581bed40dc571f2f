"""How much is pruned, by cycle or by step. A sparsity is the fraction of weights removed."""

from __future__ import annotations

import math

import numpy as np
import optax

from jaxprune._checks import check_fraction, check_number, check_steps
from jaxprune.schedules._table import lookup


def imp_sparsities(final: float, cycles: int) -> tuple[float, ...]:
    """The sparsities of iterative magnitude pruning (IMP), equal shares of what is left.

        S_j = 1 - (1 - S)^(j / J)       j = 1 ... J

    so that every cycle removes the fraction 1 - (1 - S)^(1 / J) of the weights still there. Counts
    come from the total: after cycle j, ``round(S_j n)`` of all n weights are gone. The authors'
    code (of BIMP, too) removes that fraction of what is left, rounded in each cycle, so that its
    roundings add up and its last count may be off by some weights.

    Args:
      final: S in [0, 1), the fraction removed in the end.
      cycles: J, the number of prunings.

    Returns:
      J rising sparsities; the last is ``final`` itself.

    Raises:
      TypeError: if ``final`` is not a number or ``cycles`` not an integer.
      ValueError: if one of them is out of range.

    Example:
      >>> [round(s, 4) for s in imp_sparsities(0.875, 3)]
      [0.5, 0.75, 0.875]

    References:
      Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015.
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    final = check_fraction("final", final)
    cycles = check_steps("cycles", cycles)
    left = math.log1p(-final)
    return (*(-math.expm1(left * j / cycles) for j in range(1, cycles)), final)


def twenty_percent_sparsities(final: float, rate: float = 0.2) -> tuple[float, ...]:
    """The sparsities of iterative pruning by a fixed share, 20 % of what is left, up to ``final``.

        S_j = 1 - (1 - rate)^j       j < J = ⌈log(1 - S) / log(1 - rate)⌉,       S_J = S

    A quotient within 1e-9 of an integer counts as that integer: S = 1 - 0.8³ takes three prunings,
    whatever the round-off. The last cycle removes less than the others unless S is such a value.

    Args:
      final: S in [0, 1), the fraction removed in the end.
      rate: in (0, 1), the fraction of the weights still there that each cycle removes.

    Returns:
      J rising sparsities; the last is ``final`` itself.

    Raises:
      TypeError: if an argument is not a number.
      ValueError: if one of them is out of range.

    Example:
      >>> [round(s, 4) for s in twenty_percent_sparsities(0.5)]
      [0.2, 0.36, 0.488, 0.5]

    References:
      Renda, Frankle, Carbin, Comparing Rewinding and Fine-tuning in Neural Network Pruning, ICLR
      2020.
    """
    final, rate = check_fraction("final", final), check_fraction("rate", rate)
    if not rate:
        raise ValueError(f"rate is {rate}, but every cycle has to remove something.")
    left = math.log1p(-rate)
    quotient = math.log1p(-final) / left
    cycles = max(1, math.ceil(quotient - 1e-9 * max(1.0, quotient)))
    return (*(-math.expm1(left * j) for j in range(1, cycles)), final)


def cubic(
    final: float, *, begin_step: int, end_step: int, initial: float = 0.0, power: float = 3.0
) -> optax.Schedule:
    """The cubic sparsity schedule of gradual magnitude pruning (GMP): fast first, then slower.

        s(t) = S + (S₀ - S) (1 - (t - t₀) / (t₁ - t₀))³       t₀ <= t <= t₁

    and S₀ before t₀, S after t₁; with another ``power`` in place of 3, 1 for a straight line. The
    table is computed in float64 on the host, so that the same count gives the same sparsity in and
    out of `jit`.

    Args:
      final: S in [0, 1), the fraction removed in the end.
      begin_step: t₀, the step at which pruning begins.
      end_step: t₁ >= t₀, the first step that has ``final``; if the two are equal, it is reached at
        once.
      initial: S₀ in [0, S], the fraction removed before.
      power: the exponent, above 0.

    Returns:
      A schedule: step -> float32 sparsity. At t₁ and later it is ``final``, rounded to float32.

    Raises:
      TypeError: if a sparsity is not a number or a step not a static integer.
      ValueError: if one of them is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> sparsity = cubic(0.8, begin_step=2, end_step=6)
      >>> print(np.asarray(sparsity(jnp.arange(8))).round(4))
      [0.     0.     0.     0.4625 0.7    0.7875 0.8    0.8   ]

    References:
      Zhu & Gupta, To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
      Compression, 2017, equation 1.
    """
    final = check_fraction("final", final)
    begin = check_steps("begin_step", begin_step, at_least=0)
    end = check_steps("end_step", end_step, at_least=0)
    if end < begin:
        raise ValueError(f"end_step is {end}, but must not come before begin_step, {begin}.")
    initial = check_fraction("initial", initial)
    if initial > final:
        raise ValueError(
            f"initial is {initial}, above final={final}: this schedule only prunes. Swap them."
        )
    power = _checked_power(power)
    cube = (1 - np.arange(end - begin + 1) / max(end - begin, 1)) ** power
    if end == begin:  # a step: the entry before it, if any, holds for all earlier counts
        begin, cube = (begin - 1, np.array([1.0, 0.0])) if begin else (0, np.zeros(1))
    # This form, unlike the one above, is exact at both ends.
    return lookup(initial * cube + final * (1 - cube), start=begin)


def gmp_targets(
    final: float,
    *,
    total_steps: int,
    interval: int,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """When gradual magnitude pruning (GMP) prunes, and to which sparsities.

    After step t_j = t₀ + j I the network is pruned to

        s_j = S + (S₀ - S) (1 - j / n)³       j = 1 ... n

    with n = ⌊(T - t₀) / I⌋ - 1, so that the last interval trains at S (Zimmer et al.). With
    ``end_step`` t₁ given, n = ⌊(t₁ - t₀) / I⌋ instead (Zhu & Gupta). With S₀ > 0 there is one more
    pruning, to S₀, after step t₀.

    Args:
      final: S in [0, 1), the fraction removed in the end.
      total_steps: T, the length of training in steps.
      interval: I, steps between prunings.
      begin_step: t₀, the step at which the schedule begins.
      end_step: t₁ in [t₀, T], the step by which it ends; with t₁ = t₀ there is one pruning, to S.
      initial: S₀ in [0, S), the fraction removed at t₀.
      power: the exponent in place of 3, above 0; 1 for a straight line.

    Returns:
      The numbers of steps after which to prune, rising, and the sparsity of each; the last is
      ``final`` itself.

    Raises:
      TypeError: if a sparsity is not a number or a step not a static integer.
      ValueError: if one of them is out of range, or no pruning fits.

    Example:
      >>> gmp_targets(0.5, total_steps=30, interval=10)
      ((10, 20), (0.4375, 0.5))

    References:
      Zhu & Gupta, To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
      Compression, 2017, equation 1; Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and
      Love Retraining, ICLR 2023, for the times of pruning (their code).
    """
    final = check_fraction("final", final)
    initial, power = check_fraction("initial", initial), _checked_power(power)
    if initial >= final and (initial or final):
        raise ValueError(f"initial is {initial}, but must be below final={final}.")
    total, begin = (
        check_steps("total_steps", total_steps),
        check_steps("begin_step", begin_step, at_least=0),
    )
    interval = check_steps("interval", interval)
    if initial and not begin:
        raise ValueError(
            f"initial={initial} asks for a pruning before the first step. Prune the parameters "
            "yourself, or let begin_step be at least 1."
        )
    if end_step is None:
        number = (total - begin) // interval - 1
        window = f"interval={interval} leaves no pruning in total_steps={total}" + (
            f" after begin_step={begin}" if begin else ""
        )
        most = (total - begin) // 2  # the last interval only trains
        repair = (
            f"The last interval only trains, so let it be at most {most}."
            if most > 0
            else "There must be two steps or more: begin earlier, or train longer."
        )
    else:
        end = check_steps("end_step", end_step, at_least=0)
        if end > total:
            raise ValueError(
                f"end_step={end} lies after the end of training, total_steps={total}: the network "
                "would end less sparse than asked."
            )
        if end == begin:
            return (end,), (final,)
        number = (end - begin) // interval
        window = (
            f"no interval of {interval} steps fits between begin_step={begin} and end_step={end}"
        )
        repair = "Widen the window or shorten the interval."
    if number < 1:
        raise ValueError(f"this never prunes: {window}. {repair}")
    steps = tuple(begin + j * interval for j in range(1, number + 1))
    cubes = [(1 - j / number) ** power for j in range(1, number + 1)]
    sparsities = tuple(initial * c + final * (1 - c) for c in cubes)
    if initial:
        steps, sparsities = (begin, *steps), (initial, *sparsities)
    return steps, sparsities


def _checked_power(power: float) -> float:
    power = check_number("power", power, low=0.0)
    if not power:
        raise ValueError("power is 0, but the exponent of a sparsity schedule is above 0.")
    return int(power) if power.is_integer() else power  # the same bits as a cube
