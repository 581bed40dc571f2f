"""The folder of a run: configuration, log, summary, pictures."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
from typing import Any, TextIO

import jax

import jaxprune
from experiments.config import Config, as_json, check_same
from experiments.reports._commit import commit

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "pillow")


class RunFolder:
    """A run folder. Nothing is written before `open`, and nothing at all unless ``writes``."""

    def __init__(self, path: pathlib.Path, config: Config, *, writes: bool = True):
        self.path = path
        self._config, self._writes = config, writes
        self._metrics: TextIO | None = None
        self._document: dict[str, Any] = {}
        self.is_open = False

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints of the run lie."""
        return self.path / "checkpoints"

    def open(self) -> None:
        """Makes the folder, writes config.json and starts metrics.jsonl.

        Raises:
          FileExistsError: if the folder holds a run of another configuration; the message lists
            the first differences.
          OSError: if the folder cannot be written.
        """
        path, config = self.path, self._config
        self.is_open = True
        if not self._writes:
            return
        check_writable(path)
        check_same(path, config)
        self._document = {
            "config": as_json(config),
            "versions": {
                "jaxprune": jaxprune.__version__,
                **{package: importlib.metadata.version(package) for package in _PACKAGES},
            },
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "command": shlex.join(["python", "-m", "experiments.run", *_arguments(config)]),
            "commit": commit(),
        }
        self._write_document()
        # Line-buffered: an interrupted run keeps every line up to the interruption.
        self._metrics = (path / "metrics.jsonl").open("w", buffering=1)

    def note(self, **values: Any) -> None:
        """Adds to config.json, if this process has begun the run: one that goes on leaves it be."""
        if self._document:
            self._document |= values
            with contextlib.suppress(OSError):  # no room: the log will say so
                self._write_document()

    def _write_document(self) -> None:
        # Whole or not at all: a file cut off by a crash would stop the next start.
        fresh = self.path / ".config.json"
        fresh.write_text(json.dumps(self._document, indent=2) + "\n")
        fresh.replace(self.path / "config.json")

    def reopen(self, offset: int) -> list[dict[str, Any]]:
        """Goes on with metrics.jsonl where a checkpoint was made; what came later is cut off.

        Args:
          offset: bytes of it that belong to the checkpoint.

        Returns:
          The rows up to there.

        Raises:
          FileNotFoundError, ValueError: if the log is gone, or shorter than that.
        """
        self.close()
        self._document = {}
        self.is_open = True
        if not self._writes:
            return []
        path = self.path / "metrics.jsonl"
        if not path.exists():
            raise FileNotFoundError(f"{path} is gone, so the run cannot be resumed; start it anew.")
        size = path.stat().st_size
        if size < offset:
            raise ValueError(
                f"{path} has {size} bytes, but had {offset} when the checkpoint was made: lines "
                "are lost. Restore the file, or start the run anew."
            )
        os.truncate(path, offset)
        self._metrics = path.open("a", buffering=1)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def sync(self) -> int:
        """Makes sure that all of metrics.jsonl is on the disk; returns how many bytes there are."""
        if self._metrics is None:
            return 0
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return (self.path / "metrics.jsonl").stat().st_size

    def log(self, row: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl; numbers that are not finite become null, as JSON asks.

        Raises:
          OSError: if there is no room; the message says what to do.
        """
        assert self.is_open, "open() the folder first"
        if self._metrics is None:
            return
        try:
            self._metrics.write(json.dumps(_without_nan(row), allow_nan=False) + "\n")
        except OSError as error:
            raise OSError(
                f"{self.path / 'metrics.jsonl'} cannot be written ({error.strerror}). Make room "
                "and go on with --resume."
            ) from error

    def write_summary(self, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        """Writes summary.csv."""
        if not self._writes:
            return
        with (self.path / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        """Closes the log."""
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # no room: said already
                self._metrics.close()
            self._metrics = None


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def check_writable(path: pathlib.Path) -> None:
    """Makes a folder.

    Raises:
      OSError: if it cannot be made or written.
    """
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
