"""Prunes a network in a safetensors file by magnitude, once and without retraining.

    jaxprune prune-file runs/demo/final.safetensors --sparsity 0.98
    jaxprune prune-file model.safetensors --sparsity 0.5 --allocation erk --out sparse.safetensors

The file is one of `jaxprune.save`, as every run leaves one, or of another framework, where the
names of tensors have their parts between dots ("encoder.0.weight"). It is written in the same form;
a file of jaxprune holds the mask, too.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console

from experiments import checks, registry
from experiments.errors import refused
from experiments.program import program


@dataclasses.dataclass(frozen=True)
class Options:
    """Prune a network in a safetensors file by magnitude, once and without retraining."""

    network: tyro.conf.Positional[pathlib.Path]
    """The file."""

    sparsity: float
    """Fraction to remove of the prunable weights, such as 0.9."""

    allocation: str = "global"
    """How it is spread over layers: global, uniform, uniform_plus, erk, lamp, ..."""

    out: pathlib.Path | None = None
    """The file to write; default: the name of the network with -pruned behind."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input)."""
    options = tyro.cli(Options, args=arguments, prog=program("prune_file"))
    console = Console()
    try:
        checks.check_offered("allocation", options.allocation, registry.ALLOCATIONS)
        console.print(prune(options), markup=False, highlight=False, soft_wrap=True)
    except Exception as error:
        return refused(error, console)
    return 0


def prune(options: Options) -> str:
    """Prunes and writes the network; returns the table of its layers.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no network, or cannot be pruned as asked.
    """
    import jaxprune as jp
    from experiments.setup import make_allocation

    path = options.network
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    out = options.out or path.with_name(f"{path.stem}-pruned{path.suffix}")
    own = _is_ours(path)
    if own:
        params, before = jp.load(path)
        settings = jp.read_settings(path)
    else:
        params, before, settings = _nested(path), None, {}
    allocation = make_allocation(options.allocation, params)
    params, mask = jp.prune(params, options.sparsity, within=before, allocation=allocation)
    if own:
        pruned_by = {"sparsity": options.sparsity, "allocation": options.allocation}
        jp.save(out, params, mask, settings={**settings, "prune": pruned_by})
    else:
        from safetensors.flax import save_file

        save_file(_flat(params), out, metadata={"format": "pt"})
    return f"{jp.masks.report(params, mask)}\n\nwritten: {out}"


def _is_ours(path: pathlib.Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return any(
                "jaxprune" in text for item in (file.metadata() or {}).items() for text in item
            )
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}).") from error


def _nested(path: pathlib.Path) -> dict[str, Any]:
    """The tensors of another framework's file, by the parts of their names."""
    from safetensors.flax import load_file

    tree: dict[str, Any] = {}
    for name, value in load_file(path).items():
        *folders, last = name.split(".")
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = value
    return tree


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        deeper = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{name}.") if deeper else {prefix + name: value}
    return found


if __name__ == "__main__":
    sys.exit(main())
