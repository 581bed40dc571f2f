"""What a sweep is: a grid over the options of a run. Nothing here imports JAX."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import checks, tasks
from experiments.config import ITERATIVE, Config, compared, defaults

LABEL = "label"
"""What a variant is called in tables; it is no option of a run."""

# What does not touch the dense network: options of the prunings and of what comes after them.
AFTER_DENSE = (
    "method",
    "sparsity",
    "cycles",
    "retrain_epochs",
    "schedule",
    "peak",
    "retrain_warmup",
    "rewind_epoch",
    "optimizer_state",
    "recalibrate",
    "score",
    "allocation",
    "pattern",
    "interval",
    "penalty",
    "initial",
)
# A run lies in the folder of its sweep, and the sweep resumes it.
_NOT_SET = ("run_dir", "resume", "coordinator", "num_processes", "process_id")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Any option of `experiments.run` can be given, by the name of its field. A tuple of values is an
    axis: the runs are all combinations.

    Attributes:
      name: of the sweep; the default folder is named after it.
      base: options of all runs.
      variants: what the rows of a comparison differ in, each with options that are added to
        ``base``, and a ``label``. One run a combination for each of them.
    """

    name: str
    base: Mapping[str, Any]
    variants: Sequence[Mapping[str, Any]] = ({},)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      id: names its folder: readable, and different for different options.
      label: of its variant.
      config: its options.
    """

    id: str
    label: str
    config: Config

    @property
    def dense(self) -> str | None:
        """Names the dense network that it begins with; `None` for methods of one phase.

        Runs with the same name prune the same network, which is trained once.
        """
        if self.config.method not in ITERATIVE:
            return None
        settings = {k: v for k, v in compared(self.config).items() if k not in AFTER_DENSE}
        settings["dense_schedule"] = self.config.resolved_dense_schedule()
        model, data, seed = self.config.model, self.config.data_name(), self.config.seed
        return f"{model}-{data}-{settings['epochs']}-s{seed}-{_digest(settings)}"


def runs(sweep: Sweep) -> list[Run]:
    """The runs of a sweep, checked one by one.

    Raises:
      ValueError: for an unknown or refused option (with the nearest name), a value that a run
        refuses, an empty grid, or a combination that is there twice.
    """
    found: dict[str, Run] = {}
    for variant in sweep.variants:
        options = {**sweep.base, **variant}
        label = str(options.pop(LABEL, ""))
        for key in options:
            check_key(key)
        axes = {k: v if isinstance(v, tuple) else (v,) for k, v in options.items()}
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            config = defaults(str(chosen.pop("task", tasks.DEFAULT)), **chosen)
            checks.check(config)
            named = label or _label(config)
            run = Run(_identity(config), named, config)
            if run.id in found:
                raise ValueError(
                    f"{sweep.name} has a run twice: {named} with "
                    f"{dict(zip(axes, values, strict=True))}. Leave a value or a variant out."
                )
            found[run.id] = run
    if not found:
        raise ValueError(f"{sweep.name} has no runs: an axis or the list of variants is empty.")
    return list(found.values())


def changed(sweep: Sweep, settings: Sequence[str]) -> Sweep:
    """A sweep with options set anew, in all its variants.

    Args:
      sweep: the sweep.
      settings: ``key=value`` or ``key=value,value,...``, an axis.

    Raises:
      ValueError: if a setting is not of this form, its key unknown, or its value of another type.
    """
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not text:
            raise ValueError(f"--set {setting!r} is not key=value or key=value,value.")
        key = key.strip().replace("-", "_")
        if key != LABEL:
            check_key(key)
        first, *more = (_parsed(key, part) for part in text.split(","))
        given[key] = (first, *more) if more else first
    variants = [{k: v for k, v in variant.items() if k not in given} for variant in sweep.variants]
    unique = [v for i, v in enumerate(variants) if v not in variants[:i]]
    return dataclasses.replace(sweep, base={**sweep.base, **given}, variants=unique)


def check_key(key: str) -> None:
    """Raises unless a name is that of an option which a sweep may set.

    Raises:
      ValueError: with the nearest name.
    """
    names = [field.name for field in dataclasses.fields(Config)]
    if key in _NOT_SET:
        raise ValueError(f"a sweep sets {key} by itself; leave it out.")
    if key not in names:
        near = difflib.get_close_matches(key, names, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"there is no option {key!r}. {hint}The options are those of experiments.run."
        )


def _parsed(key: str, text: str) -> Any:
    """A value of an option, from the command line."""
    if key == LABEL:
        return text
    hint: Any = typing.get_type_hints(Config)[key]
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members: Any = typing.get_args(hint) if union else (hint,)
    if type(None) in members and text.lower() == "none":
        return None
    wanted: Any = next(m for m in members if m is not type(None))
    if wanted is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key} is true or false; got {text!r}.")
        return text.lower() == "true"
    if typing.get_origin(wanted) is typing.Literal:
        checks.check_name(key, text, typing.get_args(wanted))
        return text
    try:
        return wanted(text)
    except ValueError as error:
        raise ValueError(f"{key} is of type {wanted.__name__}; got {text!r}.") from error


def _label(config: Config) -> str:
    return config.schedule if config.method == "imp" else config.method


def _identity(config: Config) -> str:
    how = config.method if config.method != "imp" else f"imp-{config.schedule}"
    parts = (config.model, config.data_name(), how, f"{config.sparsity:g}", f"c{config.cycles}")
    lengths = f"e{config.epochs}-r{config.retrain_epochs}"
    return f"{'-'.join(parts)}-{lengths}-s{config.seed}-{_digest(compared(config))}"


def _digest(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
