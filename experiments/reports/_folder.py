"""The folder of a run: configuration, log, summary, pictures."""

import csv
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
from typing import Any, TextIO

import jax

import jaxprune
from experiments.config import Config
from experiments.reports._commit import commit

# Where a run is written and read from does not change its numbers.
_NOT_COMPARED = ("run_dir", "data_dir")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "pillow")


class RunFolder:
    """A run folder. Nothing is written before `open`."""

    def __init__(self, path: pathlib.Path, config: Config):
        self.path = path
        self._config = config
        self._metrics: TextIO | None = None

    @property
    def is_open(self) -> bool:
        """Whether `open` has been called."""
        return self._metrics is not None

    def check(self) -> None:
        """Raises if the folder holds a run of another configuration; touches nothing.

        Raises:
          FileExistsError: listing the first differences.
        """
        _check_same_config(self.path, _settings(self._config))

    def open(self) -> None:
        """Makes the folder, writes config.json and starts metrics.jsonl.

        Raises:
          FileExistsError: if the folder holds a run of another configuration; the message lists
            the first differences.
          OSError: if the folder cannot be written.
        """
        path, config = self.path, self._config
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(
                f"the run folder {path} cannot be written ({error.strerror}). Choose another with "
                "--run-dir."
            ) from error
        self.check()
        document = {
            "config": _settings(config),
            "versions": {
                "jaxprune": jaxprune.__version__,
                **{package: importlib.metadata.version(package) for package in _PACKAGES},
            },
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": jax.devices()[0].device_kind,
            "command": shlex.join(["python", "-m", "experiments.run", *_arguments(config)]),
            "commit": commit(),
        }
        (path / "config.json").write_text(json.dumps(document, indent=2) + "\n")
        # Line-buffered: an interrupted run keeps every line up to the interruption.
        self._metrics = (path / "metrics.jsonl").open("w", buffering=1)

    def log(self, row: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl."""
        assert self._metrics is not None, "open() the folder first"
        self._metrics.write(json.dumps(row) + "\n")

    def write_summary(self, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        """Writes summary.csv."""
        with (self.path / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        """Closes the log."""
        if self._metrics is not None:
            self._metrics.close()


def _settings(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it."""
    values = dataclasses.asdict(config)
    return {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in values.items()}


def _check_same_config(path: pathlib.Path, settings: dict[str, Any]) -> None:
    file = path / "config.json"
    if not file.exists():
        return
    try:
        held = json.loads(file.read_text())["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileExistsError(
            f"{file} is not the configuration of a run. Choose another folder with --run-dir."
        ) from error
    names = sorted((held.keys() | settings.keys()) - set(_NOT_COMPARED))
    different = [n for n in names if held.get(n) != settings.get(n)]
    if different:
        shown = ", ".join(
            f"{n}: {held.get(n)!r} there, {settings.get(n)!r} now" for n in different[:3]
        )
        raise FileExistsError(
            f"the run folder {path} holds a run of another configuration ({shown}). Choose another "
            "with --run-dir, or delete it."
        )


def _arguments(config: Config) -> list[str]:
    """The command-line arguments that repeat a run: what differs from the defaults."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words
