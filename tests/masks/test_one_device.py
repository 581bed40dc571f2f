"""On one device compiled code lays small leaves out together; the masks are those of the host."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("cases", ["cover", pytest.param("--all", marks=pytest.mark.slow)])
def test_compiled_masks_are_those_of_the_host(cases):
    command = [sys.executable, "-m", "tests.masks.one_device", cases]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("cases\n")
