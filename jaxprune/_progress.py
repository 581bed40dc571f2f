"""How far a run is: one line that changes in a terminal or notebook, lines in a file or pipe."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

_PAUSE = 0.2  # seconds between two changes of the line
_MINUTE = 60.0  # seconds between two lines at most


class Line:
    """Tells how many of some steps are done, what runs now, and how long it will take.

    It writes numbers that are on the host already: nothing waits for a device because of it. No
    package is needed: a terminal goes back to the start of its line, and a notebook has IPython,
    which replaces what it has shown.

    In a file or a pipe there is a line whenever a tenth is done, or a minute has passed.
    """

    def __init__(self, total: int | None, *, unit: str = "steps", stream: TextIO | None = None):
        """Shows nothing yet.

        Args:
          total: how many steps there are; `None` if nobody knows.
          unit: the word for them.
          stream: where it goes; the standard error if omitted, so that results can be piped.
        """
        self._total, self._unit = total, unit
        self._stream = sys.stderr if stream is None else stream
        self._notebook = _notebook() if stream is None else None
        self._live = self._notebook is not None or self._stream.isatty()
        self._began, self._first, self._done = time.perf_counter(), 0, 0
        self._shown, self._tenth, self._handle, self._is_open = 0.0, 0, None, False

    def start(self, done: int) -> None:
        """So many steps were done before; the time that is left is estimated without them."""
        self._began, self._first, self._done = time.perf_counter(), done, done
        self._tenth = self._tenths()

    def show(self, what: str, done: int, numbers: Mapping[str, float] | None = None) -> None:
        """Tells where the run stands, unless it did so a moment ago.

        Args:
          what: runs now, such as "cycle 2".
          done: steps done, of all.
          numbers: shown behind them, by name.
        """
        now, self._done = time.perf_counter(), done
        due = _PAUSE if self._live else _MINUTE
        if now - self._shown < due and (self._live or self._tenths() <= self._tenth):
            return
        self._tenth = self._tenths()
        self._write(self._text(what, done, numbers or {}, now))
        self._shown = now

    def end(self, text: str) -> None:
        """Writes the last words, and leaves the line as it is."""
        seconds = time.perf_counter() - self._began
        count = f"{self._done:,} {self._unit}"
        self._write(f"{text}  {count}, {_duration(seconds)}")
        self.close()

    def close(self) -> None:
        """Leaves the line as it is: what is printed next begins a new one."""
        if self._is_open and self._notebook is None:
            self._stream.write("\n")
            self._stream.flush()
        self._is_open = False

    def _tenths(self) -> int:
        return 0 if not self._total else 10 * self._done // self._total

    def _text(self, what: str, done: int, numbers: Mapping[str, float], now: float) -> str:
        of = "" if self._total is None else f"/{self._total:,}"
        parts = [what, f"{done:,}{of} {self._unit}"]
        parts += [f"{name} {value:.4g}" for name, value in numbers.items()]
        if self._total is not None and self._first < done < self._total:
            left = (now - self._began) / (done - self._first) * (self._total - done)
            parts.append(f"{_duration(left)} left")
        return "  ".join(parts)

    def _write(self, text: str) -> None:
        if self._notebook is not None:
            content = {"text/plain": text}
            if self._handle is None:
                self._handle = self._notebook(content, raw=True, display_id=True)
            else:
                self._handle.update(content, raw=True)
            return
        if not self._live:
            self._stream.write(text + "\n")
        else:
            # A line that wraps could not be overwritten.
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r" + text[:width] + "\x1b[K")
            self._is_open = True
        self._stream.flush()


def of_chunk(rates: np.ndarray, metrics: Mapping[str, Any]) -> dict[str, float]:
    """What is shown of some training steps: mean loss and accuracy, and the last learning rate."""
    found = {n: float(np.mean(metrics[n])) for n in ("loss", "accuracy") if n in metrics}
    return found if not len(rates) else {**found, "learning rate": float(rates[-1])}


def _notebook() -> Any:
    """IPython's ``display``, if its front end is a notebook and no terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return display


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
