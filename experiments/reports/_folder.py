"""The folder of a run: configuration, log, summary, pictures."""

import contextlib
import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple, TextIO

import jax

import jaxprune
from experiments.config import Config, as_json, check_same, defaults
from experiments.reports._commit import commit
from experiments.reports._files import CHECKPOINTS, unwritten, written_whole
from experiments.tasks import DEFAULT
from experiments.writers import Writer, open_writers, scalars

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "pillow")


class Mark(NamedTuple):
    """A place in metrics.jsonl, and a name of all that is written before it.

    Attributes:
      bytes: how many there are.
      sha256: their hash.
    """

    bytes: int
    sha256: str


class RunFolder:
    """A run folder. Nothing is written before `open`, and nothing at all unless ``writes``.

    Args:
      path: where it lies.
      config: the configuration of the run.
      writes: whether this process writes it.
      data: what config.json says of the data set.
      files: other texts that lie there, by name.
    """

    def __init__(
        self,
        path: pathlib.Path,
        config: Config,
        *,
        writes: bool = True,
        data: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ):
        self.path = path
        self._config, self._writes, self._data = config, writes, dict(data or {})
        self._files = dict(files or {})
        self._metrics: TextIO | None = None
        self._written, self._bytes = hashlib.sha256(), 0  # of metrics.jsonl
        self._document: dict[str, Any] = {}
        self._writers: list[Writer] = []
        self.is_open = False

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints of the run lie."""
        return self.path / CHECKPOINTS

    @property
    def log_file(self) -> pathlib.Path:
        """Where metrics.jsonl lies."""
        return self.path / "metrics.jsonl"

    def open(self) -> None:
        """Makes the folder, writes config.json and starts metrics.jsonl.

        Raises:
          FileExistsError: if the folder holds a run of another configuration; the message lists
            the first differences.
          OSError: if the folder cannot be written.
        """
        path, config = self.path, self._config
        if not self._writes:
            self.is_open = True
            return
        check_writable(path)
        check_same(path, config)
        self._document = {
            "config": as_json(config),
            "data": self._data,
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
        try:
            self._write_document()
            for name, text in self._files.items():
                with written_whole(path / name) as fresh:
                    fresh.write_text(text, encoding="utf-8")
        except OSError as error:
            raise unwritten(path / "config.json", error) from error
        try:
            # Line-buffered: an interrupted run keeps every line up to the interruption.
            self._metrics = self.log_file.open("w", buffering=1, encoding="utf-8", newline="\n")
        except OSError as error:
            raise unwritten(self.log_file, error) from error
        self._written, self._bytes = hashlib.sha256(), 0
        self._writers = open_writers(config.writers, path, as_json(config))
        self.is_open = True

    def note(self, **values: Any) -> None:
        """Adds to config.json, if this process has begun the run: one that goes on leaves it be."""
        if self._document:
            self._document |= values
            with contextlib.suppress(OSError):  # no room: the log will say so
                self._write_document()

    def _write_document(self) -> None:
        # Whole or not at all: a file cut off by a crash would stop the next start.
        with written_whole(self.path / "config.json") as fresh:
            fresh.write_text(json.dumps(self._document, indent=2) + "\n")

    def rows(self, mark: Mark) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl up to where a checkpoint was made. Changes nothing.

        Raises:
          FileNotFoundError, ValueError: if the log is gone, shorter, or not what was written.
        """
        if not self._writes:
            return []
        path = self.log_file
        if not path.exists():
            raise FileNotFoundError(f"{path} is gone, so the run cannot be resumed; start it anew.")
        repair = "Nothing was changed. Restore the file, or start the run anew."
        with path.open("rb") as file:
            held = file.read(mark.bytes)
        if len(held) < mark.bytes:
            raise ValueError(
                f"{path} has {len(held)} bytes, but had {mark.bytes} when the checkpoint was made: "
                f"lines are lost. {repair}"
            )
        if hashlib.sha256(held).hexdigest() != mark.sha256:
            raise ValueError(
                f"{path} is damaged or edited: its first {mark.bytes} bytes are not those that "
                f"were there when the checkpoint was made. {repair}"
            )
        return [json.loads(line) for line in held.splitlines()]

    def reopen(self, mark: Mark, *, step: int = 0) -> None:
        """Goes on with metrics.jsonl where a checkpoint was made; what came later is cut off.

        Call `rows` before: nothing is checked here.

        Args:
          mark: where the checkpoint was made.
          step: the training step that it was made at.
        """
        self.close()
        self._document = {}
        if self._writes:
            os.truncate(self.log_file, mark.bytes)
            self._written = hashlib.sha256(self.log_file.read_bytes())
            self._bytes = mark.bytes
            self._metrics = self.log_file.open("a", buffering=1, encoding="utf-8", newline="\n")
            settings = as_json(self._config)
            names = self._config.writers
            self._writers = open_writers(names, self.path, settings, first_step=step)
        self.is_open = True

    def sync(self) -> Mark:
        """Makes sure that all of metrics.jsonl is on the disk; returns where it ends."""
        if self._metrics is not None:
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
        return Mark(self._bytes, self._written.hexdigest())

    def log(self, row: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl; numbers that are not finite become null, as JSON asks.

        Raises:
          OSError: if there is no room; the message says what to do.
        """
        assert self.is_open, "open() the folder first"
        if self._metrics is None:
            return
        line = json.dumps(_without_nan(row), allow_nan=False) + "\n"
        try:
            self._metrics.write(line)
        except OSError as error:
            raise unwritten(self.log_file, error) from error
        self._written.update(line.encode())
        self._bytes += len(line)
        for writer in self._writers:
            writer.write(*scalars(_without_nan(row)))

    def write_summary(self, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        """Writes summary.csv."""
        if not self._writes:
            return
        with (
            written_whole(self.path / "summary.csv") as fresh,
            fresh.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def save_network(self, variables: Mapping[str, Any], mask: Mapping[str, Any]) -> None:
        """Writes final.safetensors: the pruned network as Flax has it, its mask, and the settings.

        Args:
          variables: "params", and what else the model keeps, such as "batch_stats".
          mask: of "params".

        Raises:
          OSError: if there is no room.
        """
        path = self.path / "final.safetensors"
        settings = json.loads(self.path.joinpath("config.json").read_text(encoding="utf-8"))
        rest = {name: None for name in variables if name not in mask}
        try:
            jaxprune.save(path, dict(variables), {**mask, **rest}, settings=settings)
        except OSError as error:
            raise unwritten(path, error) from error

    def save_small(self, variables: Mapping[str, Any], masks: Mapping[str, Any]) -> None:
        """Writes final.safetensors of a network that lost channels; see `jp.structured.save`.

        Raises:
          OSError: if there is no room.
        """
        path = self.path / "final.safetensors"
        settings = json.loads(self.path.joinpath("config.json").read_text(encoding="utf-8"))
        try:
            jaxprune.structured.save(path, dict(variables), dict(masks), settings=settings)
        except OSError as error:
            raise unwritten(path, error) from error

    def close(self) -> None:
        """Closes the log."""
        for writer in self._writers:
            writer.close()
        self._writers = []
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
    base = defaults(config.task)  # which the name of the task brings along
    words = [] if config.task == DEFAULT else ["--task", config.task]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(base, field.name):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return words
