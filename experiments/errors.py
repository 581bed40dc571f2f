"""Which errors are the user's to repair, and say so in one line; all others are bugs.

A bug must look like one: with its traceback. So an error is shown as one line only if a line of
this project raised it on purpose, or if the system did.
"""

import dis
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# The system says these about files, memory and packages.
_OF_THE_SYSTEM = (OSError, MemoryError, ModuleNotFoundError)
# What this project raises for bad input; a `TypeError` or `RuntimeError` is a bug here.
_OURS = (ValueError, ImportError, FloatingPointError)
_PACKAGES = ("experiments", "jaxprune")


class UnreadableError(ValueError):
    """Data that cannot be read. A worker process hands this over without its traceback."""


def is_of_input(error: BaseException) -> bool:
    """Whether the message of an error is all that there is to say."""
    if isinstance(error, (*_OF_THE_SYSTEM, UnreadableError)):
        return True
    return isinstance(error, _OURS) and _raised_by_us(error.__traceback__)


def refused(error: Exception, console: "Console") -> int:
    """Prints the message of an error of the input; returns the exit status, 2.

    Raises:
      Exception: the error itself, if it is a bug.
    """
    if not is_of_input(error):
        raise error
    console.print(f"Error: {error}", style="red", markup=False, highlight=False)
    return 2


def _raised_by_us(trace: types.TracebackType | None) -> bool:
    """Whether the innermost line is a `raise` of this project, and not a call that failed."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    package = str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0]
    return package in _PACKAGES and (dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS")
