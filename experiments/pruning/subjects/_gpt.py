"""Our GPT on the text that it was trained on."""

from rich.console import Console

from experiments.pretrained import gpt as trained
from experiments.pretrained import huggingface
from experiments.pruning.options import Settings
from experiments.pruning.subject import Subject
from experiments.pruning.subjects._language import language


def gpt(settings: Settings, console: Console) -> Subject:
    """The GPT of `experiments.pretrained.gpt`; the first use trains it."""
    folder = trained.folder(console)
    return language(huggingface.load(folder), folder / "tokenizer.json", settings)
