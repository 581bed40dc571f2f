"""What all benchmarks share: the command line, and what a result file says of its making."""

import contextlib
import dataclasses
import datetime
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import jax
import tyro
from rich.console import Console

from experiments import caches


def command(module: str, settings: Any) -> str:
    """The command line that repeats a measurement: what differs from the defaults is named.

    Args:
      module: the module that is run.
      settings: a frozen dataclass, as the command line fills it.
    """
    words = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            words.append("--" + field.name.replace("_", "-"))
            words += map(str, value if isinstance(value, tuple) else [value])
    return shlex.join(["python", "-m", module, *words])


def now() -> str:
    """The time, to a second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def main(
    settings_type: type[Any],
    run: Callable[..., str],
    *,
    module: str,
    parts: str,
    arguments: list[str] | None,
    failure: type[Exception] = RuntimeError,
    word: str = "Error",
) -> int:
    """The command line of a benchmark.

    Args:
      settings_type: its settings, with a file ``out``. Those with a ``compilation_cache`` have
        compiled programs kept: what they measure does not depend on it.
      run: ``run(settings, console=console)`` measures and returns the table.
      module: what is run, for the help text.
      parts: what is measured one after the other, for the message of an interruption.
      arguments: instead of the process's own; `None` for these.
      failure: what it raises when a result is wrong or a measurement failed.
      word: begins the message then.

    Returns:
      The exit status: 0, 1 a failure, 2 bad input, 130 interrupted.
    """
    settings = tyro.cli(settings_type, args=arguments, prog=f"python -m {module}")
    console = Console()
    try:
        if hasattr(settings, "compilation_cache"):
            caches.keep_compiled(settings.compilation_cache, caches.teller(console))
        console.print(run(settings, console=console), markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(f"Interrupted; the {parts} that were done are in {settings.out}.")
        return 130
    except failure as error:
        console.print(f"{word}: {error}", style="red", markup=False, highlight=False)
        return 1
    except (ValueError, TypeError, ImportError, OSError) as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False)
        return 2
    return 0


@contextlib.contextmanager
def compiling_anew() -> Iterator[None]:
    """Without the compilation cache: what is read from a disk would be reported as compilation."""
    cached = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
