"""Named sweeps: the comparisons of the papers, at three sizes.

Each module has one `Paper`, named PAPER: what is claimed where, and the grids that test it.
"""

import importlib

from experiments.papers._paper import Claim as Claim
from experiments.papers._paper import Paper as Paper

NAMES = ("retraining_schedules", "bimp", "rewinding", "budgeted", "allocation")


def load(name: str) -> Paper:
    """The paper of a name."""
    paper = importlib.import_module(f"experiments.papers.{name}").PAPER
    assert isinstance(paper, Paper)
    return paper
