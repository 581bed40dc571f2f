"""Commands refuse wrong options at once: before anything is imported that takes seconds."""

import subprocess
import sys

import pytest

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "jaxprune", "matplotlib", "sklearn", "pandas")
COMMAND = f"""
import importlib, sys
module, *arguments = sys.argv[1:]
try:
    status = importlib.import_module(module).main(arguments)
except SystemExit as end:
    status = end.code
print("imported:", sorted(set({HEAVY}) & sys.modules.keys()), file=sys.stderr)
sys.exit(status)
"""
TABLES = ("methods_table", "retraining_table", "filters_table")


def run(folder, module, *arguments):
    """Exit status and output of a command, in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, f"experiments.{module}", *arguments],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "HOME": str(folder), "COLUMNS": "300"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-such-option"], "Unrecognized options: --no-such-option"),
        (["--epochs", "many"], "invalid"),
        (["--precision", "float8"], "invalid choice"),
        (["--model", "resnet57"], "did you mean 'resnet56'?"),
        (["--method", "magic"], "unknown method 'magic'. Known: imp, bimp"),
        (["--schedule", "alr"], "did you mean 'allr'?"),
        (["--dense-schedule", "x"], "unknown dense_schedule 'x'"),
        (["--sparsity", "95"], "For 95 % pass 0.95"),
        (["--score", "tailor"], "unknown score 'tailor', did you mean 'taylor'?"),
        (["--score", "movement"], "score movement is not offered here: it adds up over training"),
        (["--allocation", "per_leaf"], "allocation per_leaf is not offered here: it takes"),
        (["--allocation", "uniformly"], "did you mean 'uniform'?"),
        (["--pattern", "nm_4_2"], "Known: unstructured, block_H_W, channels, nm_N_M"),
        (["--score", "taylor", "--data", "mnist", "--stream"], "leave out stream"),
        (["--method", "sr_ste"], "takes its sparsity from an N:M pattern"),
        (["--cycles", "0"], "cycles is at least 1"),
        (["--schedule", "cosine"], "cosine needs peak"),
        (["--method", "bimp", "--schedule", "slr"], "method bimp fixes schedule=allr"),
        (["--accumulate", "3"], "take a multiple of 3"),
        (["--data", "mnist", "--data-dir", "nowhere"], "mnist is not prepared in nowhere"),
        (["--data", "mnits"], "did you mean 'mnist'?"),
        (["--process-id", "1"], "process_id means nothing without a coordinator"),
        (["--resume"], "holds no run to resume"),
    ],
)
def test_the_main_job_refuses_before_it_imports_jax(tmp_path, arguments, message):
    status, out = run(tmp_path, "run", *arguments)
    assert status == 2, out
    assert message in out
    assert "Traceback" not in out
    assert out.endswith("imported: []")
    assert not list(tmp_path.iterdir())


def test_another_run_in_the_folder_is_seen_before_jax_is_imported(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"config": {"seed": 7}}')
    status, out = run(tmp_path, "run", "--run-dir", str(folder))
    assert status == 2, out
    assert "holds a run of another configuration" in out
    assert out.endswith("imported: []")


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        *[(table, ["--no-such-option"], "Unrecognized options") for table in TABLES],
        *[(table, ["--model", "resnet57"], "did you mean 'resnet56'?") for table in TABLES],
        *[(table, ["--data-dir", "nowhere"], "is not prepared in nowhere") for table in TABLES],
        ("methods_table", ["--methods", "gmp", "magic"], "unknown method 'magic'"),
        ("methods_table", ["--cycles", "9"], "cycles=9 leaves no dense epoch"),
        ("retraining_table", ["--schedules", "alr"], "did you mean 'allr'?"),
        ("retraining_table", ["--sparsities", "90"], "For 90 % pass 0.9"),
        ("filters_table", ["--scores", "l3"], "unknown score 'l3'"),
        ("torture", ["--kills", "0"], "kills is at least 1"),
    ],
)
def test_other_commands_refuse_before_they_import_jax(tmp_path, module, arguments, message):
    status, out = run(tmp_path, module, *arguments)
    assert status == 2, out
    assert message in out
    assert "Traceback" not in out
    assert out.endswith("imported: []")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["run", *TABLES, "torture"])
def test_help_does_not_import_jax(tmp_path, module):
    status, out = run(tmp_path, module, "--help")
    assert status == 0, out
    assert f"python -m experiments.{module}" in out
    assert out.endswith("imported: []")
