"""What the README promises runs as written."""

import functools
import re

import numpy as np
import pytest

from tests import snippets
from tests.snippets import ROOT

TEXT, SNIPPETS = snippets.read("README.md")


@functools.cache
def run(number):
    """The names that a snippet leaves behind."""
    return snippets.run(SNIPPETS[number], "README.md", {"__name__": "__main__"})


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_run(number):
    run(number)


def test_the_first_example_is_twelve_lines_and_does_what_it_says():
    assert len([line for line in SNIPPETS[0].splitlines() if line.strip()]) == 12
    kernel = np.asarray(run(0)["params"]["kernel"])
    assert np.sum(kernel == 0) == round(0.9 * 64 * 64)


def test_the_two_commands_are_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in TEXT
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 180


def test_links_of_the_readme_lead_somewhere():
    for path in re.findall(r"\]\((?!http|#)([^)]+)\)", TEXT):
        assert (ROOT / path).exists(), path


def test_files_named_in_the_readme_exist():
    for path in re.findall(r"`((?:jaxprune|experiments|notebooks|tests)/[\w/.]*)`", TEXT):
        assert (ROOT / path).exists(), path
