"""What the command line offers by name: all that the library has, read from its own tables.

    python -m experiments.registry

prints the table of methods that stands in docs/loops.md.

The packages are read and not imported. Importing JAX takes seconds, and a wrong name should be
refused before that. Whoever adds a method, a score, a schedule or a model changes its package
alone: names come from the package's table, options from the function's signature.
"""

import ast
import functools
import importlib
import importlib.util
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Parameter(NamedTuple):
    """An argument of a function: its type as it is written, and whether it must be given."""

    annotation: str
    required: bool


class Entry(NamedTuple):
    """A function that has a name on the command line.

    Attributes:
      module: where it is imported from.
      attribute: its name there.
      parameters: by name.
      returns: the type of its result as it is written.
      line: the first line of its documentation.
    """

    module: str
    attribute: str
    parameters: Mapping[str, Parameter]
    returns: str
    line: str

    @property
    def summary(self) -> str:
        """What it is: the first line of its documentation, up to a colon."""
        return self.line.split(": ")[0].removesuffix(".")

    def load(self) -> Any:
        """The function itself. This imports its package."""
        return getattr(importlib.import_module(self.module), self.attribute)

    def takes(self, name: str) -> bool:
        """Whether it has an argument of this name."""
        return name in self.parameters


@functools.cache
def _file(module: str) -> pathlib.Path:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of a package at the top: it is not imported
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = pathlib.Path(spec.submodule_search_locations[0], *rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _statements(module: str) -> list[ast.stmt]:
    return ast.parse(_file(module).read_text(encoding="utf-8")).body


def _imports(module: str) -> Iterator[tuple[str, str, str]]:
    """What a module imports from others: its name here, the other module, its name there."""
    for statement in _statements(module):
        if isinstance(statement, ast.ImportFrom):
            source = statement.module or ""
            if statement.level:
                package = module.split(".")
                if _file(module).name != "__init__.py":
                    package.pop()
                package = package[: len(package) + 1 - statement.level]
                source = ".".join([*package, *filter(None, [source])])
            for alias in statement.names:
                yield alias.asname or alias.name, source, alias.name


def _definition(module: str, name: str) -> ast.FunctionDef | None:
    """The function of a name, wherever it is defined; `None` if it is something else."""
    for statement in _statements(module):
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return statement
    for here, source, there in _imports(module):
        # A package that imports from itself imports a folder of its own.
        own = source.split(".")[0] in ("jaxprune", "experiments") and source != module
        if here == name and own:
            return _definition(source, there)
    return None


def _entry(module: str, name: str) -> Entry | None:
    found = _definition(module, name)
    if found is None:
        return None
    arguments = found.args
    positional = [*arguments.posonlyargs, *arguments.args]
    # Defaults belong to the last ones.
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    both = [*zip(positional, defaults, strict=True)]
    both += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parameters = {
        a.arg: Parameter(ast.unparse(a.annotation) if a.annotation else "", default is None)
        for a, default in both
    }
    returns = ast.unparse(found.returns) if found.returns else ""
    line = (ast.get_docstring(found) or "").split("\n")[0]
    return Entry(module, name, parameters, returns, line)


def _table(module: str, name: str) -> dict[str, ast.expr]:
    """The values of a table by their keys, as they are written."""
    for statement in _statements(module):
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=found)], value=ast.Dict() as table)
                | ast.AnnAssign(target=ast.Name(id=found), value=ast.Dict() as table)
            ) if found == name:
                keys = [ast.literal_eval(key) for key in table.keys if key is not None]
                return dict(zip(keys, table.values, strict=True))
            case _:
                pass
    for here, source, there in _imports(module):
        if here == name:
            return _table(source, there)
    raise LookupError(f"{module} has no table {name}.")


def _registered(module: str, name: str) -> dict[str, Entry]:
    """The functions of a table that a package exports."""
    source = next((s for here, s, _ in _imports(module) if here == name), module)
    found = {}
    for key, value in _table(module, name).items():
        assert isinstance(value, ast.Name)
        entry = _entry(source, value.id)
        assert entry is not None
        found[key] = entry
    return found


def _returning(module: str, returns: str) -> dict[str, Entry]:
    """The public functions of a package that return a type."""
    entries = {name: _entry(module, name) for name, _, _ in _imports(module) if name[0] != "_"}
    return {name: e for name, e in entries.items() if e is not None and e.returns == returns}


METHODS = _registered("jaxprune.methods", "METHODS")
SCORES = _registered("jaxprune.scores", "SCORES")
SCHEDULES = _registered("jaxprune.schedules", "RETRAINING")
LAYERWISE = _registered("jaxprune.layerwise", "METHODS")
# `global` is a word of Python, so the function has another name.
ALLOCATIONS = {
    {"globally": "global"}.get(name, name): entry
    for name, entry in _returning("jaxprune.masks", "Allocation").items()
}
PATTERNS = _returning("jaxprune.masks", "Pattern")


def models_in(module: str) -> tuple[str, ...]:
    """The names in the table of models of a package."""
    return tuple(_table(module, "MODELS"))


MODELS = models_in("experiments.models")
DATA = tuple(_table("experiments.data._load", "STATISTICS"))

REFUSED = {
    "score": {
        "movement": "it adds up over training steps; use jp.scores.movement in a loop of your own",
        "batch_norm_scale": "it must be told which norm belongs to which kernel",
        "lamp": "it rescales other scores; pass --allocation lamp",
    },
    "allocation": {"per_leaf": "it takes a sparsity for every layer; use jp.masks.per_leaf"},
}
"""What the library has and the command line does not offer, and why."""

# What a run can give to a score beside the parameters, and whether it takes batches in memory.
GIVEN = {
    "key": False,
    "apply": False,
    "grads": True,
    "hessian_gradient": True,
    "squared_grads": True,
    "input_norms": True,
}


def offered(kind: str, entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """The names of a kind that the command line takes."""
    return tuple(name for name in entries if name not in REFUSED.get(kind, {}))


def needs_batches(score: str) -> bool:
    """Whether a score is computed from training batches."""
    return any(GIVEN.get(name, False) for name, p in SCORES[score].parameters.items() if p.required)


def takes_fixed_sparsity(method: str) -> bool:
    """Whether a method takes an N:M pattern, which fixes its sparsity."""
    entry = METHODS[method]
    if not entry.takes("sparsity"):
        return entry.takes("pattern")
    return entry.takes("pattern") and "None" in entry.parameters["sparsity"].annotation


class PatternName(NamedTuple):
    """A pattern as the command line writes it, such as ``nm_2_4``.

    Attributes:
      function: its name in the library; `None` for single weights.
      numbers: the arguments.
    """

    function: str | None
    numbers: tuple[int, ...]

    @property
    def sparsity(self) -> float | None:
        """The fraction removed that it fixes; `None` if it fixes none."""
        return 1 - self.numbers[0] / self.numbers[1] if self.function == "nm" else None


def pattern_forms() -> tuple[str, ...]:
    """How the names of patterns are written, such as ``nm_N_M``."""
    return ("unstructured", *("_".join([n, *_numbers(e)]) for n, e in PATTERNS.items()))


def _numbers(entry: Entry) -> list[str]:
    return [n.upper() for n, p in entry.parameters.items() if p.required and p.annotation == "int"]


def parse_pattern(text: str) -> PatternName | None:
    """A pattern of its name on the command line; `None` if there is none of this name."""
    if text == "unstructured":
        return PatternName(None, ())
    for name, entry in PATTERNS.items():
        match = re.fullmatch("_".join([name, *[r"(\d+)"] * len(_numbers(entry))]), text)
        if match:
            numbers = tuple(map(int, match.groups()))
            wrong = 0 in numbers or (name == "nm" and numbers[0] > numbers[1])
            return None if wrong else PatternName(name, numbers)
    return None


def listing(entries: Mapping[str, Entry], kind: str = "", *, whole: bool = False) -> str:
    """The offered names with what they stand for, for a help text.

    Args:
      entries: a table.
      kind: of its names, as `REFUSED` has it.
      whole: whether first lines are shown to their ends.
    """
    said = []
    for name in offered(kind, entries):
        text = entries[name].line.replace("`", "").removesuffix(".")
        text = text if whole else entries[name].summary
        said.append(f"{name}: {text.removeprefix('Scores every weight by ')}")
    return "; ".join(said)


def methods_table() -> str:
    """The methods of one phase in Markdown, for docs/loops.md."""
    lines = [
        "| `--method` | what it is | sparsity | N:M | options of `jp.methods` |",
        "|---|---|---|---|---|",
    ]
    for name, entry in METHODS.items():
        required = [p for p in ("sparsity", "pattern") if entry.takes(p)]
        sparsity = {"sparsity": "given", "pattern": "the pattern's"}.get((*required, "")[0], "–")
        if not required and entry.parameters:
            sparsity = "results"
        options = ", ".join(f"`{p}`" for p in entry.parameters if p not in ("sparsity", "where"))
        mark = "yes" if takes_fixed_sparsity(name) else ""
        lines.append(f"| `{name}` | {entry.summary} | {sparsity} | {mark} | {options} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(methods_table())
