"""What can be pruned by name: `subject(settings)` of each module."""

from typing import TYPE_CHECKING

from experiments.pruning.subjects._g2p import g2p as g2p
from experiments.pruning.subjects._gpt import gpt as gpt
from experiments.pruning.subjects._language import folder as folder
from experiments.pruning.subjects._minilm import minilm as minilm
from experiments.pruning.subjects._mobilenet import mobilenet as mobilenet

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.pruning.options import Settings
    from experiments.pruning.subject import Subject

MODELS = {
    "minilm": minilm,
    "mobilenet": mobilenet,
    "g2p": g2p,
    "gpt": gpt,
}
"""Name -> function from settings and a console to a `Subject`."""


def load(settings: "Settings", console: "Console") -> "Subject":
    """The subject that the settings name: one of `MODELS`, or a folder of Hugging Face."""
    return MODELS.get(settings.model, folder)(settings, console)
