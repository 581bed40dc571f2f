"""Which line of the user's an equation comes from."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

from jax.extend import source_info_util

# Their lines say less than the line that calls them.
_LIBRARIES = re.compile(r"[/\\](flax|haiku|equinox|keras|einops|optax)[/\\]")

_HERE = str(Path(__file__).absolute().parents[2]) + os.sep  # the package

_FRAME = re.compile(r"(?P<file>.+?):(?P<line>\d+)(?::\d+)*(?: \(.*\))?")


def line_of(info: Any) -> str:
    """The file and the line, ``"model.py:12"``; "" where JAX knows none.

    Args:
      info: the ``source_info`` of an equation, or `None`.
    """
    if info is None:
        return ""
    shown = source_info_util.summarize(info, num_frames=64).splitlines()[::-1]  # innermost first
    frames = [m for m in map(_FRAME.fullmatch, shown) if m]
    frames = list(itertools.takewhile(lambda m: not m["file"].startswith(_HERE), frames))
    ours = [m for m in frames if not _LIBRARIES.search(m["file"])] or frames
    if not ours or ours[0]["file"].startswith("<"):  # sessions and doctests: "<stdin>"
        return ""
    return f"{_inside(ours[0]['file'])}:{ours[0]['line']}"


def _inside(file: str) -> str:
    """The path below the working directory, or all of it."""
    path = Path(os.path.abspath(file))
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
