"""Tables: a schedule read once on the host, and a table handed back as a schedule."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _eager
from jaxprune._checks import check_steps

Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


class Pretraining(NamedTuple):
    """The learning rates of the dense training run, one per step.

    Attributes:
      rates: float64 ``[T]``.
      warmup_steps: the first steps of it that were warm-up.
    """

    rates: Table
    warmup_steps: int

    @property
    def highest(self) -> float:
        """η_max, over all steps."""
        return float(self.rates.max())

    @property
    def lowest(self) -> float:
        """η_min, over the steps after the warm-up (which may itself start from zero)."""
        return float(self.rates[self.warmup_steps :].min())


def check_pretraining(
    pretraining: Any, *, pretraining_steps: Any, pretraining_warmup_steps: Any
) -> tuple[int, int]:
    """Returns T and W as Python integers, or raises. Evaluates nothing."""
    steps = check_steps("pretraining_steps", pretraining_steps)
    warmup = check_steps("pretraining_warmup_steps", pretraining_warmup_steps, at_least=0)
    if warmup >= steps:
        raise ValueError(
            f"pretraining_warmup_steps is {warmup}, but pretraining_steps is {steps}: no step is "
            "left after the warm-up. Both count steps, not epochs."
        )
    if not callable(pretraining):
        raise TypeError(
            f"pretraining must be a schedule (step -> learning rate), but it is {pretraining!r}. "
            f"For a constant rate x pass optax.constant_schedule(x)."
        )
    return steps, warmup


def pretraining_table(
    pretraining: optax.Schedule, *, pretraining_steps: Any, pretraining_warmup_steps: Any
) -> Pretraining:
    """Reads the pretraining schedule at steps 0 ... T - 1.

    Raises:
      TypeError: if ``pretraining`` is not callable or depends on traced values, or a step count is
        not a static integer.
      ValueError: if a count is out of range or a rate is negative, infinite or NaN.
    """
    steps, warmup = check_pretraining(
        pretraining,
        pretraining_steps=pretraining_steps,
        pretraining_warmup_steps=pretraining_warmup_steps,
    )
    # The user's schedule is read under JAX's default promotions: several of optax's own schedules
    # divide integer counts, which strict mode refuses, and strict mode is our caller's choice for
    # other code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        try:
            rates = _read(pretraining, steps)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            raise TypeError(
                "pretraining depends on a traced value, but its table is built on the host. "
                "Make the schedule from Python numbers, or outside of jit."
            ) from error
    bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if bad.size:
        raise ValueError(
            f"pretraining gives the learning rate {rates[bad[0]]} at step {bad[0]} of {steps} "
            f"({bad.size} such steps). Rates must be finite and not negative; for round-off below "
            "zero wrap the schedule in jnp.maximum(rate, 0)."
        )
    if not rates.any():
        raise ValueError(
            f"pretraining gives the learning rate 0 at each of its {steps} steps. Check that it is "
            "the schedule the network was trained with."
        )
    return Pretraining(rates, warmup)


def _read(pretraining: optax.Schedule, steps: int) -> Table:
    some = sorted({0, steps // 2, steps - 1})

    def one(count: Any) -> Any:
        rate = pretraining(count)
        if isinstance(rate, (int, float)):
            raise TypeError("a constant, which a program would round")
        return rate

    def all_and_some(counts: Any) -> Any:
        return jax.vmap(one)(counts), [pretraining(i) for i in some]

    # A schedule is only promised to work on one count. Whatever goes wrong with many at once
    # (a Python `if`, NumPy, `int(count)`) is no error: the loop at the end decides.
    with contextlib.suppress(Exception):
        value, single = _eager.in_one_program(all_and_some, np.arange(steps))
        rates = np.asarray(value, np.float64)
        if _agree(rates, some, single):
            return rates
    # Compile-time evaluation lets a table be built in the middle of a trace.
    with jax.ensure_compile_time_eval():
        counts = jax.device_put(np.arange(steps))
        for attempt in (pretraining, jax.vmap(pretraining)):
            try:
                value = attempt(counts)
                rates = np.asarray(value, np.float64)
            except Exception:
                continue
            if isinstance(value, (int, float)):  # optax.constant_schedule
                rates = np.full(steps, rates)
            if _agree(rates, some, [_read_one(pretraining, i) for i in some]):
                return rates
        return np.array([_read_one(pretraining, i) for i in range(steps)])


def _agree(rates: Table, some: list[int], single: Any) -> bool:
    """Whether there is one rate per count, and some of them are those of their counts alone.

    They may not be: a function of one count can do anything with an array of counts, and integers
    that do not fit into an array's dtype fit into Python's.
    """
    single = np.array(single, np.float64)
    if rates.shape != (some[-1] + 1,) or single.shape != (len(some),):
        return False
    near = 1e-5 * np.abs(single).max()
    return np.allclose(rates[some], single, rtol=1e-5, atol=near, equal_nan=True)


def _read_one(pretraining: optax.Schedule, step: int) -> float:
    rate = np.asarray(pretraining(step), np.float64)
    if rate.shape != ():
        raise ValueError(
            f"pretraining gives an array of shape {rate.shape} at step {step}, but must give one "
            "learning rate."
        )
    return float(rate)


def lookup(table: np.ndarray, *, start: int = 0) -> optax.Schedule:
    """Returns the schedule that looks counts up in ``table``, as float32.

    The first entry is that of count ``start`` and of all before it. The table stays a NumPy array,
    so that a schedule belongs to no device and to no trace.
    """
    return partial(_at, table.astype(np.float32), start)  # no closure: it can be pickled


def _at(entries: np.ndarray, start: int, count: Any) -> jax.Array:
    last = start + len(entries) - 1
    # What lives on the host may be wider than JAX's integers, and is looked up there.
    if isinstance(count, (int, np.integer)):
        count = np.array(min(max(int(count), start), last))
    if isinstance(count, np.ndarray) and np.issubdtype(count.dtype, np.integer):
        return jax.device_put(entries[np.clip(count.astype(np.int64), start, last) - start])
    count = jnp.asarray(count)
    if not jnp.issubdtype(count.dtype, jnp.integer):
        raise TypeError(
            f"a schedule takes an integer count, but it is of dtype {count.dtype} (float32 "
            "cannot count past 2**24). Count steps in int32."
        )
    return _look_up(entries, count, start)


@partial(jax.jit, static_argnums=2, inline=True)
def _look_up(entries: Any, count: jax.Array, start: int) -> jax.Array:
    last = start + len(entries) - 1
    if count.dtype.itemsize < 4:  # `last` may not fit
        count = count.astype(jnp.int32)
    # Clipped before the subtraction, which could wrap around.
    low, high = jnp.asarray(start, count.dtype), jnp.asarray(last, count.dtype)
    return entries[jnp.clip(count, low, high) - low]
