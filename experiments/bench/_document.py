"""What a result file says of its own making: the command and the time."""

import dataclasses
import datetime
import shlex
from typing import Any


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
