"""The folder of a sweep: what it is to do, what is done, what failed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
import traceback
from collections.abc import Sequence
from typing import Any

from experiments.config import Config, as_json, defaults
from experiments.sweeps._claims import STALE, Claims
from experiments.sweeps._sweep import Run, Sweep
from experiments.tasks import DEFAULT


class SweepFolder:
    """A folder that the workers of a sweep share.

    Args:
      path: the folder.
      runs: the runs of the sweep.
      stale: seconds after which a worker that does not show itself counts as dead.
    """

    def __init__(self, path: pathlib.Path, runs: Sequence[Run], *, stale: float = STALE):
        self.path, self.runs = path, list(runs)
        self.claims = Claims(path / "claims", stale=stale)

    def begin(self, sweep: Sweep) -> None:
        """Writes sweep.json, or compares with the one that is there.

        A sweep may grow: runs that were not there before are added.

        Raises:
          ValueError: if the folder holds runs that are not of this sweep.
        """
        file = self.path / "sweep.json"
        ours = {run.id for run in self.runs}
        if file.exists():
            try:
                held = set(json.loads(file.read_text(encoding="utf-8"))["runs"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file} is damaged ({error}). Choose another --out.") from error
            if others := sorted(held - ours):
                raise ValueError(
                    f"{self.path} holds another grid: {len(others)} of its runs are not of this "
                    f"one, such as {others[0]}. Choose another --out."
                )
        document = {"name": sweep.name, "runs": {r.id: r.label for r in self.runs}}
        fresh = file.with_name(".sweep.json")
        fresh.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        fresh.replace(file)

    def config(self, run: Run) -> Config:
        """The configuration of a run, in its folder; it goes on if it has begun."""
        folder = self.run_dir(run)
        begun = (folder / "checkpoints").is_dir() and any(
            path.name.isdigit() for path in (folder / "checkpoints").iterdir()
        )
        return dataclasses.replace(run.config, run_dir=folder, resume=begun)

    def run_dir(self, run: Run) -> pathlib.Path:
        """The folder of a run."""
        return self.path / "runs" / run.id

    def dense_dir(self, name: str) -> pathlib.Path:
        """The folder of a dense network."""
        return self.path / "dense" / name

    def is_done(self, run: Run) -> bool:
        """Whether a run has ended well."""
        return (self.run_dir(run) / "done.json").exists()

    def mark_done(self, run: Run, **values: Any) -> None:
        """Notes that a run has ended well."""
        folder = self.run_dir(run)
        (folder / "error.txt").unlink(missing_ok=True)
        document = {"id": run.id, "label": run.label, **values}
        fresh = folder / ".done.json"
        fresh.write_text(json.dumps(document) + "\n", encoding="utf-8")
        fresh.replace(folder / "done.json")

    def mark_failed(self, run: Run, error: BaseException) -> None:
        """Notes why a run failed, and how to repeat it."""
        folder = self.run_dir(run)
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(traceback.format_exception(error))
        said = f"{type(error).__name__}: {error}"
        document = {"error": said, "command": self.command(run), "traceback": text}
        (folder / "error.txt").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def failures(self) -> list[tuple[Run, dict[str, str]]]:
        """The runs that failed, with error and command."""
        found = []
        for run in self.runs:
            file = self.run_dir(run) / "error.txt"
            if not self.is_done(run) and file.exists():
                try:
                    found.append((run, json.loads(file.read_text(encoding="utf-8"))))
                except ValueError:
                    found.append((run, {"error": "unknown", "command": self.command(run)}))
        return found

    def forget_failures(self) -> None:
        """Lets runs that failed be tried again."""
        for run in self.runs:
            (self.run_dir(run) / "error.txt").unlink(missing_ok=True)

    def has_failed(self, run: Run) -> bool:
        """Whether a run failed since `forget_failures`."""
        return (self.run_dir(run) / "error.txt").exists() and not self.is_done(run)

    def open_runs(self) -> list[Run]:
        """The runs that are neither done nor failed."""
        return [r for r in self.runs if not self.is_done(r) and not self.has_failed(r)]

    def command(self, run: Run) -> str:
        """The command that repeats a run alone."""
        words = ["python", "-m", "experiments.run"]
        if run.config.task != DEFAULT:
            words += ["--task", run.config.task]  # it brings its defaults along
        base = as_json(defaults(run.config.task))
        settings = as_json(run.config)
        for name, value in settings.items():
            if value == base[name]:
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
        return shlex.join([*words, "--run-dir", f"{self.run_dir(run)}-again"])
