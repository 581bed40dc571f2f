"""What can be seen wrong with a run before anything of it is made, and before JAX is imported."""

import difflib
import math
import pathlib
import re
from collections.abc import Iterable, Mapping

from experiments import prepared, processes, registry, tasks, writers
from experiments.config import (
    DENSE_SCHEDULES,
    INITIAL,
    INTERVAL,
    ITERATIVE,
    METHODS,
    PENALTY,
    Config,
    check_same,
    defaults,
)

# The schedules that start at `peak`.
PEAKED = tuple(name for name, entry in registry.SCHEDULES.items() if entry.takes("peak"))


def check_name(field: str, value: str, known: Iterable[str]) -> None:
    """Raises for a name that is not known.

    Raises:
      ValueError: with the nearest name, and all of them.
    """
    known = list(known)
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown {field} {value!r}{hint} Known: {', '.join(known)}.")


def check_offered(kind: str, value: str, entries: Mapping[str, registry.Entry]) -> None:
    """Raises for a name that is not known or not offered here.

    Raises:
      ValueError: with the reason, or the nearest name and all of them.
    """
    reason = registry.REFUSED.get(kind, {}).get(value)
    if reason:
        raise ValueError(f"{kind} {value} is not offered here: {reason}.")
    check_name(kind, value, registry.offered(kind, entries))


def check_here(config: Config) -> None:
    """Raises for what this process alone can see wrong, options and files.

    One process of several looks at its options only: the others would wait for it in vain if it
    ended over a file that they see otherwise. Its files are looked at once they have met.

    Raises:
      ValueError, OSError: with the value and the repair.
      ImportError: if a package is missing.
    """
    check(config)
    writers.check_installed(config.writers)
    if processes.place(config) is None:
        check_run_dir(config)
        check_data_of(config)


def check_run_dir(config: Config) -> None:
    """Raises if the run folder is that of another run, or holds none to go on with.

    Raises:
      FileExistsError, FileNotFoundError: with the repair.
    """
    folder = config.resolved_run_dir()
    check_same(folder, config)
    if config.resume and not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(f"{folder} holds no run to resume. Leave --resume out.")


def check_data(name: str, data_dir: pathlib.Path | None) -> None:
    """Raises if a data set is not on the disk.

    Args:
      name: its name.
      data_dir: where prepared sets lie, if not in their own place.

    Raises:
      FileNotFoundError: if it is not prepared; the message has the command that prepares it.
      ValueError: if nobody knows it, or it cannot be read.
      ImportError: if tensorflow-datasets is missing.
    """
    if name != "digits":
        prepared.find_prepared(name, prepared.resolve_data_dir(data_dir))


def check_data_of(config: Config) -> None:
    """Raises if the data of a configuration are not on the disk, or have not what its task needs.

    Raises:
      ValueError, FileNotFoundError, ImportError: as `check_data`.
    """
    if config.task in _TEXTS:
        tasks.check_text(config.data, config.data_dir, config.text_fields, _TEXTS[config.task])
    elif config.task == "segmentation":
        tasks.check_segmentation(config.data, config.data_dir)
    else:
        check_data(config.data, config.data_dir)


# How many texts an example has.
_TEXTS = {"language_modelling": 1, "translation": 2}


def check_split(batch_size: int, *, devices: int, accumulate: int) -> None:
    """Raises if devices and accumulation do not divide a batch.

    Raises:
      ValueError: with a size that they do.
    """
    if batch_size % (devices * accumulate):
        raise ValueError(
            f"batch_size={batch_size} cannot be split over devices={devices} and "
            f"accumulate={accumulate}; take a multiple of {devices * accumulate}."
        )


def check(config: Config) -> None:
    """Raises for what can be seen wrong before any data are read.

    Raises:
      ValueError: with the value and the repair.
    """
    check_name("task", config.task, tasks.KINDS)
    for field, value, known in (
        ("method", config.method, METHODS),
        ("model", config.model, tasks.models_of(config.task)),
        ("schedule", config.schedule, registry.SCHEDULES),
        ("dense_schedule", config.resolved_dense_schedule(), DENSE_SCHEDULES),
    ):
        check_name(field, value, known)
    _check_task(config)
    check_offered("score", config.score, registry.SCORES)
    if config.allocation is not None:
        check_offered("allocation", config.allocation, registry.ALLOCATIONS)
    if registry.parse_pattern(config.pattern) is None:
        raise ValueError(
            f"unknown pattern {config.pattern!r}. Known: {', '.join(registry.pattern_forms())}, "
            "with numbers in place of the capitals, such as nm_2_4."
        )
    for field, least in (
        ("epochs", 1),
        ("retrain_epochs", 1),
        ("cycles", 1),
        ("batch_size", 1),
        ("eval_batch_size", 1),
        ("warmup_epochs", 0),
        ("weight_decay", 0),
        ("momentum", 0),
        ("seed", 0),
        ("accumulate", 1),
        ("checkpoint_epochs", 1),
        ("join_seconds", 1),
        ("workers", 0),
        ("image_size", 1),
        ("max_length", 2),
        ("vocabulary", 256),
        ("buckets", 1),
    ):
        value = getattr(config, field)
        if not least <= value < math.inf:
            raise ValueError(f"{field} is at least {least} and finite; got {value}.")
    if not 0 <= config.sparsity < 1:
        percent = f" For {config.sparsity:g} % pass {config.sparsity / 100:g}."
        raise ValueError(
            f"sparsity is the fraction removed, in [0, 1); got {config.sparsity}."
            f"{percent if 1 < config.sparsity < 100 else ''}"
        )
    _check_stream(config)
    if config.devices is not None and config.devices < 1:
        raise ValueError(f"devices is at least 1; got {config.devices}.")
    check_split(config.batch_size, devices=config.devices or 1, accumulate=config.accumulate)
    if not 0 < config.learning_rate < math.inf:
        raise ValueError(f"learning_rate is positive and finite; got {config.learning_rate}.")
    if config.warmup_epochs >= config.epochs:
        raise ValueError(
            f"warmup_epochs={config.warmup_epochs} leaves nothing of epochs={config.epochs}."
        )
    if config.rewind_epoch is not None and not 0 <= config.rewind_epoch < config.epochs:
        raise ValueError(
            f"rewind_epoch is an epoch of dense training, in [0, {config.epochs}); got "
            f"{config.rewind_epoch}."
        )
    if config.method not in ITERATIVE:
        _check_one_phase(config)
    for field, takers in (("interval", INTERVAL), ("penalty", PENALTY), ("initial", INITIAL)):
        value = getattr(config, field)
        if value is not None and config.method not in takers:
            raise ValueError(
                f"method {config.method} takes no {field}; got {value}. Those that do: "
                f"{', '.join(takers)}."
            )
    if config.interval is not None and not 0 < config.interval < math.inf:
        raise ValueError(f"interval is a number of epochs above 0; got {config.interval}.")
    if config.method == "bimp":
        fixed = {"schedule": "allr", "peak": None, "rewind_epoch": None, "warmup_epochs": 0}
        for field, value in (*fixed.items(), ("dense_schedule", "linear")):
            if getattr(config, field) not in (value, None):
                raise ValueError(
                    f"method bimp fixes {field}={value}; got {getattr(config, field)!r}. Use "
                    "method imp to choose."
                )
    if config.method in ITERATIVE:
        _check_retraining(config)
    if config.structured is not None:
        _check_structured(config)


def _check_retraining(config: Config) -> None:
    """Raises for options of the cycles of imp and bimp that cannot be."""
    name = config.schedule
    if name in PEAKED and config.peak is None:
        raise ValueError(f"schedule {name} needs peak, the rate to start from.")
    if name not in PEAKED and config.peak is not None:
        raise ValueError(f"schedule {name} has no peak; got {config.peak}. Leave it out.")
    if config.peak is not None and not 0 < config.peak < math.inf:
        raise ValueError(f"peak is positive and finite; got {config.peak}.")
    if config.retrain_warmup is not None and not 0 <= config.retrain_warmup < 1:
        raise ValueError(
            f"retrain_warmup is the fraction of retraining spent on warm-up, in [0, 1); got "
            f"{config.retrain_warmup}."
        )
    if name == "lrw" and config.retrain_epochs > config.epochs:
        raise ValueError(
            f"lrw rewinds by retrain_epochs={config.retrain_epochs}, but epochs is "
            f"{config.epochs}: there is no such window. Retrain for at most that long, or use slr, "
            "which stretches the schedule."
        )
    fixed = fixed_sparsity(config)
    # 0.6667 is near enough to 1 - 1/3.
    if fixed is not None and (abs(config.sparsity - fixed) > 1e-3 or config.cycles != 1):
        raise ValueError(
            f"pattern {config.pattern} fixes sparsity={fixed:g} and goes with cycles=1; got "
            f"{config.sparsity:g} and {config.cycles}."
        )
    if registry.needs_batches(config.score):
        several = processes.place(config) is not None
        for given, what in (
            (config.stream, "stream"),
            (config.parallel == "pmap", "parallel pmap"),
            (several, "several processes"),
        ):
            if given:
                raise ValueError(
                    f"score {config.score} is computed from training batches in the memory of one "
                    f"process; leave out {what}, or take score magnitude."
                )


def _check_structured(config: Config) -> None:
    """Raises for options that mean nothing to whole channels."""
    rules, name = ("channels", "filters"), config.structured or ""
    if config.task != "image_classification":
        raise ValueError(
            f"structured goes with task image_classification; got {config.task}. For other "
            "networks take jp.training.structured_imp."
        )
    if name not in rules and not re.fullmatch(r"(resnet|vgg)\d+-\w+", name):
        raise ValueError(
            f"structured is {', '.join(rules)} or a configuration such as resnet56-B; got "
            f"{config.structured!r}."
        )
    published = config.structured not in rules
    if published and config.cycles != 1:
        raise ValueError(
            f"structured {config.structured} is one prune; got cycles={config.cycles}. Pass "
            "--cycles 1."
        )
    if config.method != "imp":
        raise ValueError(f"structured goes with method imp; got {config.method}.")
    if config.score not in ("magnitude", "random"):
        raise ValueError(
            f"channels are scored by magnitude or random here; got score {config.score}. Others "
            "are in jp.structured."
        )
    for field, value in (("allocation", None), ("pattern", "unstructured"), ("parallel", "data")):
        if getattr(config, field) != value:
            raise ValueError(
                f"{field} means nothing to structured; got {getattr(config, field)}. Leave it out."
            )


def fixed_sparsity(config: Config) -> float | None:
    """The sparsity that the pattern fixes; `None` if it fixes none."""
    pattern = registry.parse_pattern(config.pattern)
    return None if pattern is None else pattern.sparsity


def _check_task(config: Config) -> None:
    """Raises for options that the task does not take, or that are out of range for it."""
    base, kind = defaults(config.task), config.kind()
    special = dict.fromkeys(name for other in tasks.KINDS.values() for name in other.options)
    for name in special:
        value = getattr(config, name)
        if name not in kind.options and value != getattr(base, name):
            takers = [other.name for other in tasks.KINDS.values() if name in other.options]
            raise ValueError(
                f"{name} means nothing to task {config.task}; got {value!r}. It is an option of "
                f"{', '.join(takers)}."
            )
    if not config.data:
        files = ", or a text file" if config.task == "language_modelling" else ""
        raise ValueError(f"task {config.task} needs data: pass --data, the name of a set{files}.")
    if config.optimizer == "adamw":
        for name in ("momentum", "nesterov"):
            if getattr(config, name) != getattr(base, name):
                raise ValueError(
                    f"{name} means nothing to optimizer adamw; got {getattr(config, name)!r}. "
                    "Leave it out, or take sgd."
                )
    for name in ("width", "depth", "heads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is at least 1; got {value}.")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is a fraction in [0, 1); got {config.dropout}.")
    if config.task != tasks.DEFAULT and config.stream:
        raise ValueError(f"task {config.task} reads its data into memory; leave out stream.")


def _check_stream(config: Config) -> None:
    """Raises for options of streams without one, and for what a stream cannot do."""
    if config.stream:
        if config.data == "digits":
            raise ValueError("the digits are embedded, there is nothing to stream; leave it out.")
        if config.recalibrate:
            raise ValueError("recalibrate needs the set in memory; leave out stream or it.")
        return
    base = defaults(config.task)
    for field in ("workers", "preprocess", "image_size"):
        if getattr(config, field) != getattr(base, field):
            raise ValueError(f"{field} means nothing without stream; got {getattr(config, field)}.")


def _check_one_phase(config: Config) -> None:
    """Raises for options that a method of one phase would have to ignore."""
    base, method = defaults(config.task), config.method
    retraining = ("schedule", "rewind_epoch", "peak", "retrain_warmup", "optimizer_state", "score")
    ignored = [(field, "it has one phase and no retraining") for field in retraining]
    entry = registry.METHODS[method]
    if not entry.takes("allocation"):
        ignored.append(("allocation", "it does not spread a total"))
    if not entry.takes("sparsity"):
        ignored.append(("sparsity", "it does not control its sparsity"))
    if method == "lc":
        ignored.append(("weight_decay", "it decays small weights only, by `penalty`"))
    if not entry.takes("pattern"):
        ignored.append(("pattern", "it prunes single weights"))
    elif fixed_sparsity(config) is not None and not registry.takes_fixed_sparsity(method):
        takers = ", ".join(filter(registry.takes_fixed_sparsity, registry.METHODS))
        raise ValueError(
            f"pattern {config.pattern} fixes the sparsity, but that of {method} grows. Take one of "
            f"{takers}, or imp with one cycle."
        )
    elif fixed_sparsity(config) is None and not entry.takes("sparsity"):
        raise ValueError(
            f"method {method} takes its sparsity from an N:M pattern; got pattern "
            f"{config.pattern}. Pass --pattern nm_2_4."
        )
    for field, reason in ignored:
        value = getattr(config, field)
        if value != getattr(base, field):
            raise ValueError(
                f"{field} means nothing to method {method}: {reason}; got {value!r}. Leave it out, "
                "or use method imp."
            )
