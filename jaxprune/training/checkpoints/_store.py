"""The checkpoints of one run on the disk: written, read, checked."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxprune._tree import PyTree
from jaxprune.training.checkpoints._checkpoints import Checkpoints, orbax
from jaxprune.training.checkpoints._fingerprint import check_same, versions
from jaxprune.training.checkpoints._history import History
from jaxprune.training.checkpoints._lock import lock_folder
from jaxprune.training.checkpoints._portable import (
    digests,
    from_arrays,
    host_digest,
    shapes_of,
    to_arrays,
)
from jaxprune.training.checkpoints._records import from_json, to_json
from jaxprune.training.steps._processes import anywhere, meet
from jaxprune.training.steps._state import copy


class Store:
    """The checkpoints of one run, while it runs."""

    def __init__(self, settings: Checkpoints, fingerprint: Mapping[str, Any]):
        """Takes the folder.

        Raises:
          FileNotFoundError: if there is nothing to go on with.
          FileExistsError: if there is something, of a run that has not ended, but the run is to
            start anew.
          OSError: if the folder cannot be written, or another run uses it.
        """
        if not isinstance(settings, Checkpoints):
            raise TypeError(
                f"checkpoints is a jaxprune.training.Checkpoints(folder, ...); got {settings!r}."
            )
        self._settings = settings
        self._fingerprint = json.loads(json.dumps({**fingerprint, **(settings.settings or {})}))
        self.folder = pathlib.Path(settings.folder).absolute()
        if settings.resume and not self.folder.is_dir():
            raise FileNotFoundError(_nothing(self.folder))
        first = jax.process_index() == 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.folder) if first else None
        except BlockingIOError:
            raise
        except OSError as error:
            raise OSError(
                f"the folder for checkpoints {self.folder} cannot be written ({error.strerror}). "
                "Choose another."
            ) from error
        try:
            self._manager = _manager(self.folder, settings.keep)
            self._history = History(self.folder / "history", writes=first)
            self._saved = max(self._manager.all_steps(), default=-1)
            if settings.resume and self._saved < 0:
                raise FileNotFoundError(_nothing(self.folder))
            if not settings.resume and self._saved >= 0:
                self._clear()
        except BaseException:
            self.close()
            raise

    def _clear(self) -> None:
        """Removes the checkpoints of a run that has ended."""
        if not self._ended.exists():
            raise FileExistsError(
                f"{self.folder} holds checkpoints of a run that has not ended, up to step "
                f"{self._saved}. Go on with it (resume), or delete the folder."
            )
        meet("jaxprune: all have seen that it has ended")
        # First of all: a crash from here on must not leave the mark to the run that begins.
        self._unmark_ended()
        for step in self._manager.all_steps():
            self._manager.delete(step)
        self._history.clear()
        meet("jaxprune: its checkpoints are gone")
        self._saved = -1

    @property
    def _ended(self) -> pathlib.Path:
        return self.folder / "ended"

    def mark_ended(self) -> None:
        """Notes that the run has ended: another one may take its place."""
        if jax.process_index() == 0:
            self._ended.touch()

    def _unmark_ended(self) -> None:
        if jax.process_index() == 0:
            self._ended.unlink(missing_ok=True)

    def save(self, steps: int, state: dict[str, PyTree], run: dict[str, Any]) -> None:
        """Starts to write a checkpoint; returns when the arrays may be changed again.

        Args:
          steps: training steps done.
          state: trees of arrays by name.
          run: all else, for `to_json`.

        Raises:
          OSError: if this or the one before could not be written.
        """
        if steps == self._saved:
            return
        self._unmark_ended()
        self._wait()  # Orbax would, too; but then nobody could tell which of the two failed
        ocp = orbax()
        arrays = {
            f"{name}/{k}": v for name, tree in state.items() for k, v in to_arrays(tree).items()
        }
        if jax.default_backend() == "cpu":
            arrays = copy(arrays)  # there the background thread reads the buffers themselves
        history: dict[str, np.ndarray] = {}
        extra = None if self._settings.extra is None else self._settings.extra()
        text = json.dumps(
            {
                "run": to_json({**run, "extra": extra}, history, "run"),
                "fingerprint": self._fingerprint,
                "versions": versions(),
                "digests": digests(arrays),
                "history": self._added(steps, history),
            }
        )
        try:
            saved = self._manager.save(
                steps,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    run=ocp.args.JsonSave({"text": text, "digest": host_digest(text)}),
                ),
            )
        except Exception as error:
            raise self._unwritten(steps, error) from error
        if not saved:
            raise self._unwritten(steps, RuntimeError("there is a newer one already"))
        self._saved = steps

    def _added(self, steps: int, history: dict[str, np.ndarray]) -> dict[str, Any]:
        try:
            return self._history.save({name: x for name, x in history.items() if x.size})
        except OSError as error:
            raise self._unwritten(steps, error) from error

    def _unwritten(self, steps: int, error: Exception) -> OSError:
        complete = []
        with contextlib.suppress(Exception):
            complete = Checkpoints(self.folder).steps()
        held = f"The newest complete one is of step {complete[-1]}" if complete else "There is none"
        reason = _reason(error)
        repair = "make room there and resume" if "space left" in reason else "resume from there"
        return OSError(
            f"the checkpoint of step {steps} could not be written to {self.folder}: {reason}. "
            f"{held}; {repair}."
        )

    def restore(
        self, like: Callable[[dict[str, Any]], dict[str, PyTree]]
    ) -> tuple[dict[str, PyTree], dict[str, Any]]:
        """Reads the newest checkpoint that is whole.

        Args:
          like: makes of what else was saved trees by name, with the structure, shapes and places
            that are wanted. A checkpoint may lack some.

        Returns:
          The trees, and what else was saved.

        Raises:
          ValueError: if it is of other settings or another model, naming the first difference.
          MemoryError: if there is no room for it.
          FileNotFoundError: if none is whole.
        """
        self._wait()
        unreadable: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            failure: Exception | None = None
            result: Any = None
            document: dict[str, Any] = {}
            try:
                document = self._text(step)
            except Exception as error:
                failure = error
            if not anywhere(failure is not None):
                check_same(document["fingerprint"], self._fingerprint, self.folder)
                _warn_of_versions(document["versions"])
                stored: Any = None
                try:
                    stored = self._read(step, document, like)
                except Exception as error:
                    failure = error
                # Checksums are computed together: first all must have something to compute with.
                if not anywhere(failure is not None):
                    try:
                        result = self._checked(stored, document)
                    except Exception as error:
                        failure = error
            if not anywhere(failure is not None):
                self._set_aside(unreadable)
                self._saved = step
                return result
            if anywhere(failure is not None and _is_no_room(failure)):
                raise MemoryError(
                    f"the checkpoint of step {step} in {self.folder} does not fit into memory"
                    + (f" ({_reason(failure)})" if failure is not None else "")
                    + ". Nothing in the folder has changed; resume where there is more."
                ) from failure
            unreadable[step] = (
                "another process could not read it" if failure is None else _reason(failure)
            )
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in unreadable.items())
        raise FileNotFoundError(
            f"no checkpoint in {self.folder} can be read ({reasons}). They are left as they "
            "are; start anew in another one."
        )

    def _item(self, step: int, name: str, arguments: Any) -> Any:
        """Reads a part of a checkpoint.

        Each process reads for itself: Orbax's manager ends with a barrier, at which the others
        would wait for one that failed.
        """
        ocp = orbax()
        own = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"jaxprune-{own}"
        )
        is_text = isinstance(arguments, ocp.args.JsonRestore)
        handler = ocp.JsonCheckpointHandler if is_text else ocp.StandardCheckpointHandler
        with ocp.Checkpointer(
            handler(multiprocessing_options=options), multiprocessing_options=options
        ) as reader:
            return reader.restore(self.folder / str(step) / name, args=arguments)

    def _text(self, step: int) -> dict[str, Any]:
        stored = self._item(step, "run", orbax().args.JsonRestore())
        text = stored["text"]
        if host_digest(text) != stored["digest"]:
            raise ValueError("its description has changed")
        return json.loads(text)

    def _read(
        self,
        step: int,
        document: dict[str, Any],
        like: Callable[[dict[str, Any]], dict[str, PyTree]],
    ) -> Any:
        ocp = orbax()
        run = from_json(document["run"], self._history.read(document["history"]))
        held = {name.split("/", 1)[0] for name in document["digests"]}
        trees = {name: tree for name, tree in like(run).items() if name in held}
        wanted = {
            f"{name}/{key}": shape
            for name, tree in trees.items()
            for key, shape in shapes_of(tree).items()
        }
        arrays = self._item(step, "state", ocp.args.StandardRestore(wanted))
        return {"state": arrays, "like": trees, "run": run}

    def _checked(self, stored: Any, document: dict[str, Any]) -> Any:
        arrays = stored["state"]
        found = digests(arrays)
        broken = [name for name, digest in document["digests"].items() if found.get(name) != digest]
        if broken:
            raise ValueError(f"its array {broken[0]!r} has changed")
        states = {
            name: from_arrays(
                {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")},
                tree,
            )
            for name, tree in stored["like"].items()
        }
        return states, stored["run"]

    def _set_aside(self, unreadable: Mapping[int, str]) -> None:
        """Sets aside damaged checkpoints newer than the restored one."""
        if not unreadable:
            return
        self._unmark_ended()
        for step, reason in unreadable.items():
            warnings.warn(
                f"the checkpoint of step {step} in {self.folder} is damaged ({reason}); going back "
                f"to the one before it. The damaged one is kept as {step}.damaged.",
                stacklevel=3,
            )
            if jax.process_index() == 0:
                (self.folder / str(step)).rename(_free(self.folder / f"{step}.damaged"))
        meet("jaxprune: damaged ones are set aside")
        self._manager.reload()

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._unwritten(self._saved, error) from error

    def finish(self) -> None:
        """Waits for the last checkpoint.

        Raises:
          OSError: if it could not be written.
        """
        self._wait()

    def close(self) -> None:
        """Releases the folder, whatever happened."""
        manager = getattr(self, "_manager", None)
        if manager is not None:
            with contextlib.suppress(Exception):
                manager.close()
        if self._lock is not None:
            self._lock.release()


def _manager(folder: pathlib.Path, keep: int) -> Any:
    ocp = orbax()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "run"))


def _nothing(folder: pathlib.Path) -> str:
    return f"there is no checkpoint in {folder} to resume from. Start the run without resume."


def _reason(error: BaseException) -> str:
    """The most telling line of an error: the operating system's, if that caused it."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    of_system = re.search(r": ([^:]+) \[os_error_code", text)  # as TensorStore puts it
    return of_system[1] if of_system else text[:200]


def _is_no_room(error: BaseException) -> bool:
    """Whether memory ran out, which says nothing about the checkpoint."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _free(path: pathlib.Path) -> pathlib.Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _warn_of_versions(held: Mapping[str, str]) -> None:
    now = versions()
    changed = [f"{k} {held[k]} -> {now[k]}" for k in held if now.get(k) != held[k]]
    if changed:
        warnings.warn(
            f"the checkpoint was made with other versions ({', '.join(changed)}): the run goes on, "
            "but its numbers may differ from those of one that never stopped.",
            stacklevel=3,
        )
