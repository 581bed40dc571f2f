"""The notebooks equal their text pairs, and run."""

import importlib.util
import pathlib

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
_spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)


def sources(notebook):
    return [(cell["cell_type"], cell["source"]) for cell in notebook["cells"]]


@pytest.mark.parametrize("name", build.NAMES)
def test_pairs_agree(name):
    written = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert sources(written) == sources(build.make(name)), "run: python notebooks/build.py"


def test_every_script_is_a_notebook():
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"build"}
    assert scripts == set(build.NAMES)


def test_badge_and_install_cell_come_with_the_address_only():
    bare, badged = build.make("quickstart", ""), build.make("quickstart", "https://github.com/a/b")
    assert len(badged["cells"]) == len(bare["cells"]) + 2
    assert "/github/a/b/blob/main/notebooks/quickstart.ipynb" in badged["cells"][0]["source"]
    assert "git+https://github.com/a/b" in badged["cells"][1]["source"]
    assert not any("colab" in cell["source"] for cell in bare["cells"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", build.NAMES)
def test_notebooks_run(name):
    notebook = build.execute(build.make(name, ""))
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    text = "".join(out.get("text", "") for out in outputs)
    assert "1358 of 13584 weights left" in text
