"""Timing of whole calls: compilation apart, methods in turns."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax


class Unavailable(Exception):  # noqa: N818 - not an error: the table shows the reason
    """A method cannot run here; the message says why."""


class MiscountError(Exception):
    """A mask of ours does not keep exactly as many weights as it must."""


def check_memory(needed: int, free: int) -> None:
    """Raises if memory is short."""
    if needed > free:
        raise Unavailable(f"skipped: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


class Compiled(NamedTuple):
    """A compiled function and what compiling it took."""

    call: Callable[..., Any]  # the function
    seconds: float  # tracing, lowering and compilation
    # memory beyond input and output, `None` where the backend does not say
    temporary_bytes: int | None
    new_bytes: int  # temporary and output, as far as known


class Method(NamedTuple):
    """One way to make a mask, ready to be timed."""

    name: str  # its name in the table
    run: Callable[[Any], Any]  # what is timed; it returns when the work is done
    # makes the argument of ``run`` anew before each run, outside of the time
    fresh: Callable[[], Any]
    kept: Callable[[Any], int]  # the number of weights that a result of ``run`` keeps
    slow: bool = False  # whether fewer runs are allowed, and failing is
    compiled: Compiled | None = None  # what compilation took, `None` where nothing is compiled
    # the number of weights that it must keep, `None` for those that may be wrong
    exact: int | None = None


class Times(NamedTuple):
    """Seconds of every run of a method, in order, and the number of weights it kept."""

    seconds: tuple[float, ...]
    kept: int

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def timed(call: Callable[[], Any]) -> float:
    """Seconds until the result of a call is there."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def compiled(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compiles a function for its arguments, as in a fresh process."""
    # Else a second method would profit from what the first has traced.
    jax.clear_caches()
    begin = time.perf_counter()
    call = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - begin
    memory = call.memory_analysis()
    if memory is None:
        return Compiled(call, seconds, None, 0)
    temporary = memory.temp_size_in_bytes
    return Compiled(call, seconds, temporary, temporary + memory.output_size_in_bytes)


def interleaved(
    methods: Sequence[Method], *, repeats: int, slow_repeats: int, warm: bool = False
) -> dict[str, Times | str]:
    """Times methods in turns, so that a disturbance of the machine hits all of them alike.

    Every method first runs once untimed. Each round begins with another method.

    Args:
      methods: the methods.
      repeats: runs of each.
      slow_repeats: runs of those that are slow.
      warm: whether each timed run follows an untimed one of the same method. An accelerator that
        has waited for the host is many times slower at first.

    Returns:
      By name the times, or the reason why a slow method failed.
    """
    seconds: dict[str, list[float]] = {method.name: [] for method in methods}
    kept: dict[str, int] = {}
    failed: dict[str, str] = {}
    gc.collect()
    for turn in range(-1, max(repeats, slow_repeats)):
        shift = max(turn, 0) % max(len(methods), 1)
        for method in [*methods[shift:], *methods[:shift]]:
            name, wanted = method.name, slow_repeats if method.slow else repeats
            if name in failed or turn >= wanted:
                continue
            gc.disable()
            try:
                if warm:
                    method.run(method.fresh())
                argument = method.fresh()
                begin = time.perf_counter()
                result = method.run(argument)
                elapsed = time.perf_counter() - begin
            except (MemoryError, RuntimeError) as error:  # both frameworks: out of memory
                if not method.slow:
                    raise
                failed[name] = f"failed: {str(error).strip().splitlines()[0][:120]}"
                continue
            finally:
                gc.enable()
            count = method.kept(result)
            del argument, result
            if method.exact is not None and count != method.exact:
                raise MiscountError(
                    f"{name} kept {count:,} weights where {method.exact:,} are to stay. No time of "
                    "a wrong mask is reported: repair jaxprune.masks first."
                )
            if kept.setdefault(name, count) != count:
                raise RuntimeError(
                    f"{name} kept {kept[name]} weights in one run and {count} in another."
                )
            if turn >= 0:
                seconds[name].append(elapsed)
    times = {name: Times(tuple(found), kept.get(name, 0)) for name, found in seconds.items()}
    return {**times, **failed}
