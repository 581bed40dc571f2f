"""Timing a function: compiled first, warmed up, every call waited for."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


class Side:
    """A compiled function with its arguments, ready to be timed.

    Attributes:
      calls: calls in each timing.
      compile_seconds: what compilation took, `None` if there was nothing to compile.
    """

    def __init__(self, name: str, f: Callable[..., Any], args: Sequence[Any], min_seconds: float):
        """Compiles the function if needed, and calls it a few times.

        Raises:
          TypeError: if ``f`` is no function.
          ValueError: if it donates its arguments.
        """
        if not callable(f):
            raise TypeError(f"{name} is to be a function of JAX arrays; got {f!r:.80}.")
        self._call, self._args = f, args
        self.compile_seconds: float | None = None
        if not isinstance(f, jax.stages.Wrapped | jax.stages.Compiled):
            begin = time.perf_counter()
            self._call = jax.jit(f).lower(*args).compile()
            self.compile_seconds = time.perf_counter() - begin
        self.calls = 1
        self.seconds()
        if any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(args)):
            raise ValueError(
                f"{name} donates its arguments, so it cannot be called with them again. Pass it "
                "without donate_argnums."
            )
        fastest = min(self.seconds() for _ in range(3))
        if fastest < min_seconds:
            self.calls = math.ceil(min_seconds / max(fastest, 1e-9))

    def seconds(self) -> float:
        """Seconds a call, the mean of one timing."""
        resting = gc.isenabled()
        gc.disable()
        try:
            begin = time.perf_counter()
            for _ in range(self.calls):
                # Waited for each time: a queue of calls would hide the time to start one, and
                # hold all their outputs.
                jax.block_until_ready(self._call(*self._args))
            return (time.perf_counter() - begin) / self.calls
        finally:
            if resting:
                gc.enable()
