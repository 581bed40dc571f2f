"""trackio: a local dashboard with the calls of Weights & Biases."""

import pathlib
from collections.abc import Mapping
from typing import Any


class Trackio:
    """Logs to the project "jaxprune" of this machine; `trackio show` draws it."""

    def __init__(self, folder: pathlib.Path, config: dict[str, Any], first_step: int):
        import trackio  # pyright: ignore[reportMissingImports]

        self._trackio = trackio
        trackio.init(
            project="jaxprune",
            name=folder.name,
            config=config,
            resume="allow" if first_step else "never",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step together."""
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._trackio.finish()
