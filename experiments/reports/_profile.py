"""A trace of what host and devices do during some steps."""

import pathlib

import jax

_SKIPPED = 2  # chunks: the first waits for the compiler


class Profile:
    """Traces one chunk of steps, the third that it hears of."""

    def __init__(self, folder: pathlib.Path | None):
        """Prepares; ``folder`` gets the trace, `None` for no trace."""
        self._folder, self._chunks = folder, 0

    def chunk(self) -> None:
        """A chunk has ended, and the next one runs."""
        self._chunks += 1
        if self._folder is None:
            return
        if self._chunks == _SKIPPED:
            jax.profiler.start_trace(str(self._folder))
        elif self._chunks == _SKIPPED + 1:
            self.stop()

    def stop(self) -> None:
        """Writes what was traced."""
        if self._folder is not None and self._chunks >= _SKIPPED:
            jax.profiler.stop_trace()
            self._folder = None
