"""The command ``jaxprune``: the experiments, wherever the package is installed.

A checkout has them as the folder ``experiments``. A wheel has the same folder inside the package,
because a package named ``experiments`` at the top of an environment would stand in the way of
everybody else's.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
import time

_BUNDLED = pathlib.Path(__file__).parent / "_bundled"
_COMMANDS = {
    "run": "train, prune and retrain one network",
    "sweep": "a grid of runs, resumable",
    "report": "tables, intervals and pictures of a sweep",
    "prune": "prune a pretrained network with some data, and repair it",
    "prune-file": "prune a network in a safetensors file by magnitude",
    "bench": "a benchmark: masks, overhead, training, loading, scaling, shrink, layerwise, models",
}


def main() -> int:
    """Runs the command that the command line names; returns its exit status."""
    started = time.perf_counter()
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        from jaxprune._version import __version__

        print(f"jaxprune {__version__}")
        return 0
    if name not in _COMMANDS:
        print(f"jaxprune has no command {name!r}.\n\n{_help()}", file=sys.stderr)
        return 2
    _find_experiments()
    module = f"experiments.{name.replace('-', '_')}"
    if name == "bench":
        if not words or words[0].startswith("-"):
            print(f"usage: jaxprune bench NAME [options]\n\n{_COMMANDS['bench']}")
            return 0 if words else 2
        module = f"experiments.bench.{words.pop(0)}.__main__"
    # What is told of usage, and what begins a worker, names the command that was given.
    sys.argv = [sys.argv[0], *words]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if missing.split(".")[0] == "experiments" and name == "bench":
            print(f"There is no such benchmark. {_COMMANDS['bench']}", file=sys.stderr)
        else:
            print(
                f"jaxprune {name} needs {missing}: pip install 'jaxprune[experiments]'.",
                file=sys.stderr,
            )
        return 2
    return found.main(words, started=started) if name == "run" else found.main(words)


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, about in _COMMANDS.items()]
    return "\n".join(
        ["usage: jaxprune COMMAND [options]", "", *lines, "", "jaxprune COMMAND --help says more."]
    )


def _find_experiments() -> None:
    """Puts the folder of the experiments first: here, and for the processes that they start."""
    if not _BUNDLED.is_dir():  # a checkout
        return
    sys.path.insert(0, str(_BUNDLED))
    rest = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_BUNDLED), *([rest] if rest else [])])
    # `python -m` looks in the present folder first, where there may be other experiments.
    os.environ["PYTHONSAFEPATH"] = "1"
