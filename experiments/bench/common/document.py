"""The command line of a benchmark, and the files that it writes."""

import contextlib
import dataclasses
import datetime
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import tyro
from rich.console import Console

from experiments import caches
from experiments.bench.common import machine, tables
from experiments.errors import refused
from experiments.program import program

Row = dict[str, Any]
Document = dict[str, Any]
Case = tuple[str, Callable[[], Iterable[Row]]]
"""What is printed before a part is measured, and the function that measures it."""


def command(module: str, settings: Any) -> str:
    """The command line that repeats a measurement: what differs from the defaults is named."""
    words = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            words.append("--" + field.name.replace("_", "-"))
            words += map(str, value if isinstance(value, tuple) else [value])
    return shlex.join(["python", "-m", module, *words])


def write(
    name: str,
    settings: Any,
    cases: Iterable[Case],
    *,
    markdown: Callable[[Document], Iterable[str]],
    finish: Callable[[Document], Any] = lambda document: None,
    console: Console | None = None,
    packages: Sequence[str] = machine.PACKAGES,
    given: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    csv_without: str | None = None,
) -> str:
    """Measures all cases and writes the files, after each case anew.

    Args:
      name: of the benchmark's folder.
      settings: its settings, with a file ``out``.
      cases: what is measured, one after the other.
      markdown: the tables as lines, from the contents of the JSON file.
      finish: adds what follows from all rows so far.
      console: where progress goes; standard output if omitted.
      packages: whose versions are recorded.
      given: values that stand in the file in place of those of the settings.
      facts: what else stands in the file.
      csv_without: write a CSV file, too, without the columns of this ending.

    Returns:
      The tables, in Markdown.
    """
    console = console or Console()
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    values = {**dataclasses.asdict(settings), **(given or {})}
    document: Document = {
        "command": command(f"experiments.bench.{name}", settings),
        "settings": {
            k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in values.items()
        },
        "machine": machine.describe(packages),
        "started": _now(),
        "load_before": machine.load(),
        "results": [],
        **(facts or {}),
    }
    text = ""
    for label, measure in cases:
        console.print(f"{label} ...")
        document["results"] += measure()
        finish(document)
        document |= {"load_after": machine.load(), "finished": _now()}
        text = "\n".join(markdown(document))
        settings.out.write_text(json.dumps(document, indent=2) + "\n")
        settings.out.with_suffix(".md").write_text(text + "\n")
        if csv_without is not None:
            rows = tables.as_csv(document["results"], without=csv_without)
            settings.out.with_suffix(".csv").write_text(rows)
    return text


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def main(
    settings_type: type[Any],
    run: Callable[..., str],
    *,
    name: str,
    parts: str,
    arguments: list[str] | None,
    failure: type[Exception] = RuntimeError,
    word: str = "Error",
) -> int:
    """The command line of a benchmark. A missed target is printed and is no error.

    Args:
      settings_type: its settings, with a file ``out``. Those with a ``compilation_cache`` have
        compiled programs kept: what they measure does not depend on it.
      run: ``run(settings, console=console)`` measures and returns the tables.
      name: of the benchmark's folder, for the help text.
      parts: what is measured one after the other, for the message of an interruption.
      arguments: instead of the process's own; `None` for these.
      failure: what it raises when a result is wrong or a measurement failed.
      word: begins the message then.

    Returns:
      The exit status: 0, 1 a failure, 2 bad input, 130 interrupted.
    """
    settings = tyro.cli(settings_type, args=arguments, prog=program(f"bench.{name}"))
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
    except Exception as error:
        return refused(error, console)
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


def check_names(settings: Any, field: str, known: Iterable[str]) -> None:
    """Raises if a field is empty or names what is not known."""
    names, listed = getattr(settings, field), ", ".join(known)
    if not names:
        raise ValueError(f"{field} is empty. Known: {listed}.")
    for name in names:
        if name not in known:
            raise ValueError(f"unknown name {name!r} in {field}. Known: {listed}.")


def check_least(settings: Any, **least: float) -> None:
    """Raises if a number of the settings, or of a tuple of them, is too small."""
    for field, limit in least.items():
        value = getattr(settings, field)
        for i, number in enumerate(value) if isinstance(value, tuple) else ((None, value),):
            if number is not None and not number >= limit:
                where = field if i is None else f"{field}[{i}]"
                raise ValueError(f"{where} is at least {limit}; got {number}.")


def check_fraction(field: str, value: float) -> None:
    """Raises unless a fraction lies in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"{field} is the fraction removed, in (0, 1); got {value}.")
