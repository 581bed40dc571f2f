"""How a command was called, for its help and its messages."""

import pathlib
import sys


def program(name: str) -> str:
    """``jaxprune run`` where the installed command began, else ``python -m experiments.run``."""
    installed = pathlib.Path(sys.argv[0]).stem == "jaxprune"
    return (
        f"jaxprune {name.replace('.', ' ').replace('_', '-')}"
        if installed
        else f"python -m experiments.{name}"
    )
